//! An answer that is computed in one go inside of a task, beside one that lets others have their turn.
//!
//! Somebody asks for all arrows, and somebody else, at the same time, for the black chess king. A line takes a millisecond
//! here. There is no `.await` in a plain loop, so the second one waits for all the arrows of the first. With a turn for
//! everybody after each ten lines it hardly waits, and the arrows are later only by its own four lines. So with asyncio:
//! a coroutine that awaits nothing stalls the server.
//! Grown up: `src/server/finder/lines.rs`, whose answers are made as fast as somebody takes them.
//!
//! ```text
//! $ cargo run --example 18-charfinder
//! in one go:
//!    582 ms  arrow: 582, U+02FF  ˿ MODIFIER LETTER LOW LEFT ARROW
//!    586 ms  black chess king: 4, U+265A  ♚ BLACK CHESS KING
//! ten lines at a time:
//!     14 ms  black chess king: 4, U+265A  ♚ BLACK CHESS KING
//!    586 ms  arrow: 582, U+02FF  ˿ MODIFIER LETTER LOW LEFT ARROW
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use poetry_suite::unicode::{Query, Rows, find};
use tokio::task::yield_now;
use tokio::time::{Instant, advance};

async fn answer(query: &str, start: Instant, in_one_go: bool) {
    let found = find(&Query::parse(query).expect("words"));
    let (mut text, mut lines) = (String::new(), 0);
    for character in Rows::new(found.into_codes(0)) {
        character.push_line(&mut text, true);
        text.push('\n');
        lines += 1;
        sit(Duration::from_millis(1));
        if !in_one_go && lines % 10 == 0 {
            yield_now().await;
        }
    }
    let first = text.lines().next().unwrap_or("nothing").replace('\t', " ");
    println!("  {:4} ms  {query}: {lines}, {first}", start.elapsed().as_millis());
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    for (how, in_one_go) in [("in one go:", true), ("ten lines at a time:", false)] {
        println!("{how}");
        let start = Instant::now();
        tokio::join!(answer("arrow", start, in_one_go), answer("black chess king", start, in_one_go));
    }
}

/// Stands for `std::thread::sleep`: moves the make-believe clock, and lets no task run. How does not matter.
fn sit(time: Duration) {
    // The first poll moves the clock; nobody waits for the rest.
    let _ = pin!(advance(time)).poll(&mut Context::from_waker(Waker::noop()));
}
