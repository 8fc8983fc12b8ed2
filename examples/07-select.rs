//! `select!` drops what does not come first, with all that it has in its hands.
//!
//! Five letters come, one every 10 ms, beside a clock that ticks every 26. The `recv` of a channel has nothing in its
//! hands while it waits, so dropping it loses nothing. The postman has: it takes a letter and then walks for 8 ms, and
//! whenever the clock ticks meanwhile, the letter is gone with him. Cure: only wait in the branch, and walk in its arm.
//! Grown up: `src/net/relay/mod.rs`, whose branches only say what has happened.
//!
//! ```text
//! $ cargo run --example 07-select
//! recv in the branch:     letters 1 2 3 4 5, lost: 0
//! postman in the branch:  letters 1 3 4, lost: 2
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, interval_at, sleep};

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

async fn write(to: Sender<u32>) {
    for letter in 1..=5 {
        sleep(ms(10)).await;
        to.send(letter).await.expect("somebody listens");
    }
}

/// Takes a letter, and then waits for something else.
async fn postman(from: &mut Receiver<u32>) -> Option<u32> {
    let letter = from.recv().await;
    sleep(ms(8)).await;
    letter
}

async fn listen(mut from: Receiver<u32>, with_postman: bool) -> (String, u32) {
    let mut clock = interval_at(Instant::now() + ms(26), ms(26));
    let (mut letters, mut lost) = (String::new(), 5);
    loop {
        let letter = async { if with_postman { postman(&mut from).await } else { from.recv().await } };
        tokio::select! {
            biased; // the first that is ready, where it would else be any
            letter = letter => match letter {
                Some(letter) => {
                    letters += &format!(" {letter}");
                    lost -= 1;
                }
                None => return (letters, lost),
            },
            _ = clock.tick() => {} // and `letter` is dropped
        }
    }
}

/// On one thread, with a clock that jumps to the next timer as soon as all tasks wait.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    for (name, with_postman) in [("recv in the branch:", false), ("postman in the branch:", true)] {
        let (to, from) = channel(1);
        let ((letters, lost), ()) = tokio::join!(listen(from, with_postman), write(to));
        println!("{name:<23} letters{letters}, lost: {lost}");
    }
}
