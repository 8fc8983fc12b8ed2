//! What did not arrive in a race, folded: one line for each server and reason, with the rounds and models.

use crate::report::TaskReport;
use crate::units::count;

use super::Run;

/// The most lines; what is left is counted.
const MOST: usize = 10;

/// What happened to the poems of one server for one reason.
struct Fold<'a> {
    /// The server; `None`: it is the client itself that failed.
    address: Option<&'a str>,
    reason: &'a str,
    poems: u64,
    rounds: Vec<usize>,
    models: Vec<&'a str>,
}

/// A line for each server and reason: `127.0.0.1:10001: connection refused (4 times: rounds 1 to 2, async, select)`.
pub fn folded(runs: &[Run]) -> Vec<String> {
    let mut folds: Vec<Fold<'_>> = Vec::new();
    for run in runs.iter().filter(|run| !run.counts()) {
        // A client that failed before it has connected has missed its poems for that reason.
        let is_told = |task: &&TaskReport| run.failure.is_none() || task.start_us.is_some();
        let tasks = run.report.tasks.iter().take(run.poems).filter(is_told);
        let poems = tasks.filter_map(|task| Some((Some(task.address.as_str()), task.error.as_deref()?)));
        let client = run.failure.iter().map(|failure| (None, failure.as_str()));
        for (address, reason) in poems.chain(client) {
            let is_it = |fold: &&mut Fold<'_>| fold.address == address && fold.reason == reason;
            if let Some(fold) = folds.iter_mut().find(is_it) {
                fold.add(run);
            } else {
                let (rounds, models) = (Vec::new(), Vec::new());
                let mut fold = Fold { address, reason, poems: 0, rounds, models };
                fold.add(run);
                folds.push(fold);
            }
        }
    }
    let shown = if folds.len() > MOST { MOST - 1 } else { folds.len() };
    let mut lines: Vec<String> = folds[..shown].iter().map(Fold::line).collect();
    if shown < folds.len() {
        let rest: u64 = folds[shown..].iter().map(|fold| fold.poems).sum();
        lines.push(format!(
            "and {} more, for {} more",
            count(rest, "poem"),
            count((folds.len() - shown) as u64, "reason")
        ));
    }
    lines
}

impl<'a> Fold<'a> {
    fn add(&mut self, run: &'a Run) {
        self.poems += 1;
        if !self.rounds.contains(&run.round) {
            self.rounds.push(run.round);
            self.rounds.sort_unstable();
        }
        if !self.models.contains(&run.model.name()) {
            self.models.push(run.model.name());
        }
    }

    fn line(&self) -> String {
        let Self { address, reason, poems, .. } = self;
        let address = address.map_or_else(String::new, |address| format!("{address}: "));
        format!("{address}{reason} ({}: {}, {})", count(*poems, "time"), ranges(&self.rounds), self.models.join(", "))
    }
}

/// Sorted rounds in words: `rounds 1 to 3 and 5`.
fn ranges(rounds: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &round in rounds {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == round => *last = round,
            _ => ranges.push((round, round)),
        }
    }
    let word = if rounds.len() == 1 { "round" } else { "rounds" };
    let range = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    };
    format!("{word} {}", ranges.into_iter().map(range).collect::<Vec<_>>().join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Model;
    use crate::race::fixtures::run;
    use crate::report::Status;

    /// A run of two poems, the second of which failed for this reason.
    fn failed(round: usize, model: Model, reason: &str) -> Run {
        let mut run = run(round, model, &[(0, 5), (0, 5)]);
        (run.report.tasks[1].status, run.report.tasks[1].error) = (Status::Reset, Some(reason.to_owned()));
        run
    }

    #[test]
    fn the_same_of_the_same_server_is_one_line() {
        let runs = [
            failed(1, Model::Async, "refused"),
            failed(1, Model::Select, "refused"),
            failed(2, Model::Async, "refused"),
            run(3, Model::Async, &[(0, 5), (0, 5)]),
            failed(4, Model::Async, "refused"),
            failed(4, Model::Select, "reset"),
        ];
        assert_eq!(
            folded(&runs),
            [
                "127.0.0.1:10001: refused (4 times: rounds 1 to 2 and 4, async, select)",
                "127.0.0.1:10001: reset (1 time: round 4, select)",
            ]
        );
        assert_eq!(folded(&runs[3..4]), [""; 0]);
    }

    #[test]
    fn a_client_that_failed_itself_is_told_in_its_own_words() {
        let mut run = failed(2, Model::Async, "reset");
        run.failure = Some("ended with status 1".to_owned());
        run.report.tasks[0].error = Some("never connected to".to_owned());
        run.report.tasks[0].start_us = None;
        let lines = ["127.0.0.1:10001: reset (1 time: round 2, async)", "ended with status 1 (1 time: round 2, async)"];
        assert_eq!(folded(&[run]), lines);
    }

    #[test]
    fn of_very_many_some_are_told() {
        let runs: Vec<Run> = (0..30).map(|number| failed(1, Model::Async, &format!("reason {number}"))).collect();
        let lines = folded(&runs);
        assert_eq!(
            (lines.len(), lines.last().map(String::as_str)),
            (MOST, Some("and 21 poems more, for 21 reasons more"))
        );
    }
}
