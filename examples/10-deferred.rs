//! A chain of callbacks on two lanes, one for results and one for errors: Twisted's Deferred, Rust's `Result`.
//!
//! What a stage returns goes on in the upper lane, what it raises in the lower one: a stage that returns has dealt with
//! the error before it. `and_then` is a stage of the upper lane only, `or_else` one of the lower.
//! Grown up: `src/client/fetch.rs`, where a poem is tried again.
//!
//! ```text
//! $ cargo run --example 10-deferred
//! return:x  return:y  poem -> x -> y
//! return:x  raise:F   poem -> x -> F!
//! return:x  pass      poem -> x -> x
//! raise:E   return:y  poem -> E! -> y
//! raise:E   raise:F   poem -> E! -> F!
//! raise:E   pass      poem -> E! -> E!
//! pass      return:y  poem -> poem -> y
//! pass      raise:F   poem -> poem -> F!
//! pass      pass      poem -> poem -> poem
//! $ cargo run --example 10-deferred -- --stages 'return:x raise:E pass'
//!         callback  return:x  raise:E  pass
//! result  poem      x
//! error                       E        E
//! ```
#![allow(clippy::print_stdout, reason = "what it prints is the lesson")]

use std::env;

type Lane = Result<String, String>;

/// What there will be one day: whoever is interested adds a stage, and `callback` runs them all.
#[derive(Default)]
struct Deferred(Vec<Box<dyn FnOnce(Lane) -> Lane>>);

impl Deferred {
    fn add_both(&mut self, stage: impl FnOnce(Lane) -> Lane + 'static) {
        self.0.push(Box::new(stage));
    }

    /// Where it is at first, and after each stage.
    fn callback(self, result: &str) -> Vec<Lane> {
        let mut way: Vec<Lane> = vec![Ok(result.to_owned())];
        for stage in self.0 {
            way.push(stage(way[way.len() - 1].clone()));
        }
        way
    }
}

/// The way through stages whose callback and errback do the same.
fn way_through(stages: &[&str]) -> Vec<Lane> {
    let mut deferred = Deferred::default();
    for stage in stages {
        match stage.split_once(':').map(|(what, value)| (what, value.to_owned())) {
            Some(("return", value)) => deferred.add_both(|_| Ok(value)),
            Some(("raise", error)) => deferred.add_both(|_| Err(error)),
            _ => deferred.add_both(|lane| lane), // neither of the two
        }
    }
    deferred.callback("poem")
}

fn main() {
    if let Some(stages) = env::args().skip_while(|arg| arg != "--stages").nth(1) {
        let stages: Vec<&str> = stages.split_whitespace().collect();
        let (mut names, mut upper, mut lower) = ("      ".to_owned(), "result".to_owned(), "error ".to_owned());
        for (name, lane) in ["callback"].iter().chain(&stages).zip(way_through(&stages)) {
            names += &format!("  {name}");
            upper += &format!("  {:1$}", lane.as_deref().unwrap_or_default(), name.len());
            lower += &format!("  {:1$}", lane.err().unwrap_or_default(), name.len());
        }
        return [names, upper, lower].iter().for_each(|line| println!("{}", line.trim_end()));
    }
    for first in ["return:x", "raise:E", "pass"] {
        for second in ["return:y", "raise:F", "pass"] {
            let way = way_through(&[first, second]);
            let way: Vec<_> = way.into_iter().map(|lane| lane.unwrap_or_else(|error| error + "!")).collect();
            println!("{first:8}  {second:8}  {}", way.join(" -> "));
        }
    }
}
