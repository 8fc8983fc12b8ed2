//! The flags of one disturbance: those of the command line, and the keys of a table in a script.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::Arg;

use super::super::faults::{PaceArgs, Usual};
use crate::cli::{nearest, values};
use crate::pace::{Deck, Pace, Plan};
use crate::server::chaos::{Behaviour, Directions, Disturbance};

/// What happens, as typed.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(mut_args(own_names))]
pub(super) struct TroubleArgs {
    /// Of a hundred connections so many each, as in 25:error,50:delay: delay, error, hang, blackout, abort, transient
    ///
    /// All others are passed on. delay: upstream is asked later. error: garbage, or over HTTP a reply with an error. hang:
    /// silence. blackout: a reset at once. abort: a reset when upstream was asked. transient: an error for the first ones.
    #[arg(long, alias = "behaviour", help_heading = "Behaviours", value_name = "LIST", value_parser = behaviours)]
    #[arg(allow_hyphen_values = true)]
    behavior: Option<Behaviours>,

    /// delay: the wait before upstream is asked [default: 1s]
    #[arg(id = "wait", long = "delay", help_heading = "Behaviours", value_name = "DURATION")]
    #[arg(value_parser = values::duration, allow_hyphen_values = true)]
    wait: Option<Duration>,

    /// delay: wait before upstream's first byte instead
    #[arg(long, help_heading = "Behaviours", hide_short_help = true)]
    delay_after: bool,

    /// error, over TCP: put a hundred bytes after the first of upstream's, instead of a thousand in their place
    #[arg(long, help_heading = "Behaviours", hide_short_help = true)]
    inject: bool,

    /// error, over HTTP: a reply with one of these statuses, which are drawn [default: 500,501,502,503]
    #[arg(long, help_heading = "Behaviours", value_name = "LIST", value_parser = statuses, hide_short_help = true)]
    #[arg(allow_hyphen_values = true)]
    error_status: Option<Statuses>,

    /// transient: the first N that draw it are errors [default: 1]
    #[arg(long, help_heading = "Behaviours", value_name = "N", hide_short_help = true)]
    #[arg(value_parser = values::whole::<u64>(0, u64::MAX), allow_negative_numbers = true)]
    transient: Option<u64>,

    #[command(flatten)]
    pace: PaceArgs,

    /// Have everything come so much later, in order, and not slower; --jitter varies it
    ///
    /// As from far away: what is under way is held here, 256 KiB of each connection at least.
    #[arg(long, help_heading = "Pace", value_name = "DURATION", value_parser = values::duration)]
    #[arg(allow_hyphen_values = true)]
    latency: Option<Duration>,

    /// Flip a bit in every SIZE bytes, at a place that follows from the seed
    #[arg(long, help_heading = "Faults", value_name = "SIZE", value_parser = values::rate, hide_short_help = true)]
    #[arg(allow_hyphen_values = true)]
    corrupt: Option<NonZeroU64>,

    /// The direction of pace, latency, cuts and corruption: down to the client, up to upstream, or both [default: down]
    #[arg(long, help_heading = "Faults", value_name = "WHICH", value_enum, hide_possible_values = true)]
    direction: Option<Direction>,
}

/// What all disturbances of a proxy share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    pub(super) seed: u64,
    /// Each draw is by itself.
    pub(super) by_chance: bool,
    /// The draws are for requests.
    pub(super) is_http: bool,
}

impl TroubleArgs {
    const DELAY: Duration = Duration::from_secs(1);
    const STATUSES: [u16; 4] = [500, 501, 502, 503];

    /// What is done. An error comes with the name of the flag.
    ///
    /// # Errors
    /// The flags make no sense together.
    pub(super) fn disturbance(&self, shared: Shared) -> Result<Disturbance, (&'static str, String)> {
        let Shared { seed, by_chance, is_http } = shared;
        let mut pace = self.pace.clone();
        let jitter = if self.latency.is_some() { pace.take_jitter() } else { None };
        let latency = self.latency.map(|latency| (latency, jitter.unwrap_or_default()));
        let pace = pace.pace(Usual::AtOnce).map_err(|why| ("jitter", why))?;
        let is_about = pace != Pace::default() || self.corrupt.is_some() || latency.is_some();
        if self.direction.is_some_and(|direction| direction != Direction::Down) && !is_about {
            let why = "--direction is about pace, latency, cuts and corruption, and none is given";
            return Err(("direction", why.to_owned()));
        }
        if is_http && self.inject {
            return Err(("inject", "--inject is for --protocol tcp: over HTTP, an error is a whole reply".to_owned()));
        }
        if !is_http && self.error_status.is_some() {
            return Err(("error-status", "--error-status is for --protocol http".to_owned()));
        }
        let behaviours = self.behavior.clone().map(|list| list.0).unwrap_or_default();
        if self.wait.is_some() && !behaviours.iter().any(|(behaviour, _)| *behaviour == Behaviour::Delay) {
            let why = "--delay is about the behaviour delay, which is not asked for: --behavior 100:delay";
            return Err(("delay", why.to_owned()));
        }
        let shares = behaviours.iter().map(|(_, share)| *share).collect();
        let direction = self.direction.unwrap_or(Direction::Down);
        Ok(Disturbance {
            deck: Deck::new(seed, shares, by_chance),
            behaviours,
            delay: self.wait.unwrap_or(Self::DELAY),
            delay_after: self.delay_after,
            inject: self.inject,
            error_status: self.error_status.clone().map_or(Self::STATUSES.to_vec(), |list| list.0),
            transient: self.transient.unwrap_or(1),
            plan: Plan::uniform(seed, pace),
            latency,
            directions: Directions { up: direction != Direction::Down, down: direction != Direction::Up },
            corrupt: self.corrupt,
            seed,
        })
    }

    /// A reset at once.
    pub(super) fn blackout() -> Self {
        Self { behavior: Some(Behaviours(vec![(Behaviour::Blackout, 100)])), ..Self::default() }
    }

    /// Whether a seed matters.
    pub(super) fn has_chance(&self) -> bool {
        self.behavior.as_ref().is_some_and(|list| list.0.iter().any(|(_, share)| *share > 0))
            || self.corrupt.is_some()
            || self.pace.has_jitter()
    }

    /// Overrides `base`: what is not given here is taken from there, except a cut.
    pub(super) fn over(self, base: &Self) -> Self {
        Self {
            behavior: self.behavior.or_else(|| base.behavior.clone()),
            wait: self.wait.or(base.wait),
            delay_after: self.delay_after || base.delay_after,
            inject: self.inject || base.inject,
            error_status: self.error_status.or_else(|| base.error_status.clone()),
            transient: self.transient.or(base.transient),
            pace: self.pace.over(&base.pace),
            latency: self.latency.or(base.latency),
            corrupt: self.corrupt.or(base.corrupt),
            direction: self.direction.or(base.direction),
        }
    }
}

const CUT_AT: &str = "\
End early: after so many bytes (100, 64KiB), or so long after it is passed on (3s, 1m)

A time counts from when a connection, or a request, is passed on, which is after the wait of a delay. What is not passed on, as in a hang, is \
not cut either.";

/// `--delay` is a behaviour's here; the pause between two pieces is another word.
fn own_names(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "delay" => arg.long("pace").help("Time from one piece to the next [default: 0, or 100ms with --num-bytes]"),
        "num_bytes" => arg.help("Bytes in a piece [default: all, or 10 with --pace; with --rate 25 pieces a second]"),
        "first_byte_delay" => arg.help("Hold back the first byte for so long"),
        "cut_at" => arg
            .help("End early: after so many bytes (100, 64KiB), or so long after it is passed on (3s, 1m)")
            .long_help(CUT_AT),
        _ => arg,
    }
}

/// A direction, as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Direction {
    /// To the client
    Down,
    /// To upstream
    Up,
    /// Both
    Both,
}

/// A list of behaviours with their shares.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Behaviours(Vec<(Behaviour, u8)>);

/// The statuses of errors.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Statuses(Vec<u16>);

fn statuses(text: &str) -> Result<Statuses, String> {
    let status = |part: &str| match part.parse() {
        Ok(status @ 400..=599) if part.len() == 3 => Ok(status),
        _ => Err(format!("'{part}' is no status of an error: a number from 400 to 599")),
    };
    text.split(',').map(status).collect::<Result<_, _>>().map(Statuses)
}

fn behaviours(text: &str) -> Result<Behaviours, String> {
    let mut list: Vec<(Behaviour, u8)> = Vec::new();
    for part in text.split(',') {
        let (share, word) = part.split_once(':').ok_or(format!("'{part}' is no SHARE:BEHAVIOUR, as in 25:error"))?;
        let share = match share.parse::<u8>() {
            // Neither +5 nor 007.
            Ok(number) if number <= 100 && number.to_string() == share => number,
            _ => return Err(format!("'{part}': a share is a whole number from 0 to 100")),
        };
        let Some(behaviour) = Behaviour::ALL.into_iter().find(|behaviour| behaviour.word() == word) else {
            let known = || Behaviour::ALL.map(|behaviour| behaviour.word().to_owned()).into_iter();
            return Err(match nearest(word, known()) {
                Some(similar) => format!("there is no behaviour '{word}'; a similar one is '{similar}'"),
                None => {
                    format!("there is no behaviour '{word}'; there are {}", known().collect::<Vec<_>>().join(", "))
                }
            });
        };
        if list.iter().any(|(known, _)| *known == behaviour) {
            return Err(format!("'{word}' is there twice"));
        }
        list.push((behaviour, share));
    }
    match list.iter().map(|(_, share)| u32::from(*share)).sum::<u32>() {
        0..=100 => Ok(Behaviours(list)),
        sum => Err(format!("the shares come to {sum}, and there are a hundred")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_shares_and_words() {
        let list = |text: &str| behaviours(text).map(|list| list.0);
        assert_eq!(list("25:error,50:delay"), Ok(vec![(Behaviour::Error, 25), (Behaviour::Delay, 50)]));
        assert_eq!(list("20:delay,10:dummy"), Ok(vec![(Behaviour::Delay, 20), (Behaviour::Dummy, 10)]));
        assert_eq!(list("0:error"), Ok(vec![(Behaviour::Error, 0)]));
        for (text, why) in [
            ("25", "'25' is no SHARE:BEHAVIOUR, as in 25:error"),
            ("", "'' is no SHARE:BEHAVIOUR, as in 25:error"),
            ("25:error,", "'' is no SHARE:BEHAVIOUR, as in 25:error"),
            ("-5:error", "'-5:error': a share is a whole number from 0 to 100"),
            ("+5:error", "'+5:error': a share is a whole number from 0 to 100"),
            ("101:error", "'101:error': a share is a whole number from 0 to 100"),
            ("25:eror", "there is no behaviour 'eror'; a similar one is 'error'"),
            ("25:x", "there is no behaviour 'x'; there are dummy, delay, error, hang, blackout, transient, abort"),
            ("10:error,20:error", "'error' is there twice"),
            ("51:error,50:delay", "the shares come to 101, and there are a hundred"),
        ] {
            assert_eq!(list(text), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_status_is_that_of_an_error() {
        let list = |text: &str| statuses(text).map(|list| list.0);
        assert_eq!(list("503"), Ok(vec![503]));
        assert_eq!(list("400,599"), Ok(vec![400, 599]));
        for (text, part) in
            [("200", "200"), ("500,", ""), ("0500", "0500"), ("+500", "+500"), ("500,x", "x"), ("600", "600")]
        {
            assert_eq!(
                list(text),
                Err(format!("'{part}' is no status of an error: a number from 400 to 599")),
                "{text}"
            );
        }
    }
}
