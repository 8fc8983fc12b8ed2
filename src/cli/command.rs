//! A command that a server runs, and lives as long as: `slowpoetry FILE -- curl -s telnet://{}`.
//!
//! ```text
//!   everything that can fail has not ── start ──▶ the command runs ──▶ it ends ──▶ the server stops, within its grace
//!                                                   ▲                                │
//!   a signal stops the server ── SIGTERM, SIGKILL ──╯                    judge ◀─────╯── the exit status
//! ```
//!
//! No shell is involved. What runs the command, and sees to it that nothing of it is left, is its keeper
//! (`keeper.rs`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Child;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tracing::info;

use super::expectation::{Expectation, Totals};
use super::keeper::{Control, Keeper, interrupted};
use super::open_files::SoftLimit;
use super::stopping::Stopping;
use super::toml_args::{COMMAND_LINE, ONE_SHOT};
use super::{Error, FAILURE, SUCCESS, say};
use crate::net::Stays;
use crate::net::counts::Counts;

/// The flags about a command.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Command")]
#[group(id = COMMAND_LINE)]
pub struct CommandArgs {
    /// Exit with 1 unless this holds when CMD has ended, as in 'left < 4s'
    ///
    /// May be given more than once. Two sums of products are compared with <, <=, =, >= or >. Their values are numbers (of
    /// seconds, or with us, ms, s or m), and left (the time from accept to when the client closed or reset its side; of
    /// several the longest), bytes (sent to clients), clients (accepted), served and lost.
    #[arg(long, value_name = "EXPR", value_parser = expectation, allow_hyphen_values = true)]
    expect: Vec<Expectation>,

    /// Run CMD as soon as it listens, and end with CMD and its exit status
    ///
    /// In each of its words {} becomes HOST:PORT, {host} and {port} the parts of that; POETRY_ADDR, POETRY_HOST and
    /// POETRY_PORT are variables of CMD. Of several services each has a {NAME} and a POETRY_ADDR_NAME. No shell is
    /// involved. Nothing that CMD has started is left in the end.
    #[arg(last = true, value_name = "CMD", group = ONE_SHOT)]
    command: Vec<OsString>,
}

fn expectation(text: &str) -> Result<Expectation, String> {
    Expectation::parse(text).map_err(|error| error.to_string())
}

/// A name for a place where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As `{NAME}` has it.
    pub name: String,
    /// Whether a service is found there, and not something about it.
    pub is_main: bool,
}

impl CommandArgs {
    /// Whether there is a command.
    pub fn is_given(&self) -> bool {
        !self.command.is_empty()
    }

    /// These flags, with those of `base` where they say nothing.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        let command = if self.is_given() { self.command } else { base.command };
        Self { expect: if self.expect.is_empty() { base.expect } else { self.expect }, command }
    }

    /// Makes sense of them for a server that will listen at these places. To be called before the limit of open files is
    /// raised, which is not for the command.
    ///
    /// # Errors
    /// Something is expected of no command, or its words do not say which place they mean.
    pub fn resolve(&self, program: &'static str, places: &[Place]) -> Result<Beside, Error> {
        if !self.is_given() {
            return match self.expect.first() {
                None => Ok(Beside(None)),
                Some(_) => Err(Error::usage("--expect is about a command: write it at the end, after --")),
            };
        }
        let mains: Vec<&str> = places.iter().filter(|place| place.is_main).map(|place| &*place.name).collect();
        if mains.len() > 1 {
            for token in ["{}", "{host}", "{port}"] {
                if self.command.iter().any(|word| contains(word, token)) {
                    let names: Vec<String> = places.iter().map(|place| format!("{{{}}}", place.name)).collect();
                    let names = names.join(", ");
                    return Err(Error::usage(format!("{token} could be any service: write one of {names}")));
                }
            }
        }
        Ok(Beside(Some(Command {
            program,
            words: self.command.clone(),
            expect: self.expect.clone(),
            places: places.to_vec(),
            limit: SoftLimit::now(),
            stays: Vec::new(),
        })))
    }
}

fn contains(word: &OsStr, token: &str) -> bool {
    word.as_bytes().windows(token.len()).any(|window| window == token.as_bytes())
}

/// What is to run beside a server: a command, or nothing.
#[derive(Debug)]
pub struct Beside(Option<Command>);

/// From when every process of a command has ended, and every client has closed its side, to the reset of connections that
/// the server has not ended by itself.
const PARTING: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Command {
    program: &'static str,
    words: Vec<OsString>,
    expect: Vec<Expectation>,
    places: Vec<Place>,
    limit: SoftLimit,
    stays: Vec<Arc<Stays>>,
}

impl Beside {
    /// Whether there is a command, which stdout belongs to.
    pub fn is_command(&self) -> bool {
        self.0.is_some()
    }

    /// Has a server note who its clients are and how long they stay. To be called before the first one comes.
    ///
    /// # Errors
    /// The system gives no thread or no descriptor.
    pub fn watch(&mut self, counts: &Counts) -> Result<(), Error> {
        if let Some(command) = &mut self.0 {
            command.stays.push(counts.note_stays().map_err(|error| Error::cannot("watch", "the clients", &error))?);
        }
        Ok(())
    }

    /// Starts the command: the server listens at these addresses, in the order of its places.
    ///
    /// The server is stopped when the command has ended, and the command when a signal asks for that.
    ///
    /// # Errors
    /// The system gives no process or no thread. That there is no such command is its exit status.
    pub fn start(self, addresses: &[SocketAddr], grace: Duration, stopping: &Stopping) -> Result<Companion, Error> {
        let Some(command) = self.0 else { return Ok(Companion(None)) };
        let Command { program, words, expect, places, limit, stays } = command;
        let places: Vec<(Place, SocketAddr)> =
            places.into_iter().zip(addresses.iter().map(|&address| reachable(address))).collect();
        let tokens = tokens(&places);
        let name = words.first().map(|word| word.display().to_string()).unwrap_or_default();
        let words: Vec<OsString> = words.iter().map(|word| filled(word, &tokens)).collect();
        // The thread first: when there is a command, somebody has to wait for it.
        let (keep, kept) = mpsc::channel::<super::keeper::Status>();
        let (tell, ended) = mpsc::channel();
        let (asked, trigger) = (Arc::<OnceLock<Signal>>::default(), stopping.trigger());
        let (stopped, is_judged) = (Arc::clone(&asked), !expect.is_empty());
        let wait = move || {
            let Ok(mut kept) = kept.recv() else { return };
            let status = interrupted(kept.wait(), stopped.get().copied());
            info!(status, "{name} has ended with status {status}");
            let _ = tell.send(status);
            // If the server does not end, nobody will have judged it.
            let status = if status == SUCCESS && is_judged { FAILURE } else { status };
            trigger.stop(status);
            kept.wait_for_the_rest();
            // A client that has closed its side, and whose process is gone, needs no grace.
            if stays.iter().all(|stays| stays.wait_until_empty(grace)) {
                thread::sleep(PARTING);
                trigger.hurry();
            }
        };
        thread::Builder::new().name("command".to_owned()).spawn(wait).map_err(|error| Error::no_thread(&error))?;
        let started = Keeper::start(&words, &variables(&places), grace, limit);
        let started = started.map_err(|error| Error::cannot("start", "a process for the command", &error))?;
        let (control, status, keeper) = started.split();
        // It waits for nothing else.
        let _ = keep.send(status);
        let control = Arc::new(control);
        let to_keeper = Arc::clone(&control);
        stopping.accompany(move |signal| {
            asked.get_or_init(|| signal);
            to_keeper.tell(signal);
        });
        Ok(Companion(Some(Running { program, expect, ended, control, keeper })))
    }
}

/// A command that runs beside a server, or nothing.
#[must_use = "what is left of the command is ended only with its server"]
pub struct Companion(Option<Running>);

struct Running {
    program: &'static str,
    expect: Vec<Expectation>,
    /// Its exit status, when it has ended.
    ended: mpsc::Receiver<u8>,
    control: Arc<Control>,
    keeper: Child,
}

impl Companion {
    /// The server has ended, with this outcome: waits for the command, ends what is left of it, judges what the servers
    /// have seen of it, and returns the exit status: the command's own, if that is none of success.
    ///
    /// # Errors
    /// Those of the server, which have ended the command.
    pub fn end(self, served: Result<u8, Error>, stopping: &Stopping, servers: &[&Counts]) -> Result<u8, Error> {
        let Some(Running { program, expect, ended, control, mut keeper }) = self.0 else { return served };
        stopping.server_is_over();
        if served.is_err() {
            control.tell(Signal::SIGTERM);
        }
        let status = ended.recv().unwrap_or(FAILURE);
        control.tell_over();
        // It was ours, and nobody else has waited for it.
        let _ = keeper.wait();
        let served = served?;
        let seen = Totals::of(servers);
        let disappointments: Vec<String> =
            expect.iter().filter_map(|expected| expected.disappointment(&seen)).collect();
        disappointments.iter().for_each(|line| say(program, line));
        let judged = if disappointments.is_empty() { SUCCESS } else { FAILURE };
        Ok([status, served, judged].into_iter().find(|&status| status != SUCCESS).unwrap_or(SUCCESS))
    }
}

/// The address at which a client on this machine reaches a server that listens at this one.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// The place that needs no name, if there is one: the only service.
fn only(places: &[(Place, SocketAddr)]) -> Option<SocketAddr> {
    let mut mains = places.iter().filter(|(place, _)| place.is_main);
    mains.next().filter(|_| mains.next().is_none()).map(|(_, address)| *address)
}

/// What is to be replaced in the words of a command, and with what.
fn tokens(places: &[(Place, SocketAddr)]) -> Vec<(String, String)> {
    let mut tokens: Vec<(String, String)> =
        places.iter().map(|(place, address)| (format!("{{{}}}", place.name), address.to_string())).collect();
    if let Some(address) = only(places) {
        let parts =
            [("{}", address.to_string()), ("{host}", address.ip().to_string()), ("{port}", address.port().to_string())];
        tokens.extend(parts.map(|(token, value)| (token.to_owned(), value)));
    }
    tokens
}

/// A word with all tokens replaced, from left to right.
fn filled(word: &OsStr, tokens: &[(String, String)]) -> OsString {
    let (mut rest, mut word) = (word.as_bytes(), Vec::new());
    while let Some(&byte) = rest.first() {
        match tokens.iter().find(|(token, _)| rest.starts_with(token.as_bytes())) {
            Some((token, value)) => {
                word.extend(value.as_bytes());
                rest = &rest[token.len()..];
            }
            None => {
                word.push(byte);
                rest = &rest[1..];
            }
        }
    }
    OsString::from_vec(word)
}

/// The variables of a command; `None`: not that of another server, around this one.
fn variables(places: &[(Place, SocketAddr)]) -> BTreeMap<String, Option<String>> {
    let variable = |name: &str| name.to_uppercase().replace('-', "_");
    let named = places
        .iter()
        .map(|(place, address)| (format!("POETRY_ADDR_{}", variable(&place.name)), Some(address.to_string())));
    let only = only(places);
    let part = |name: &str, of: fn(SocketAddr) -> String| (name.to_owned(), only.map(of));
    let parts = [
        part("POETRY_ADDR", |address| address.to_string()),
        part("POETRY_HOST", |address| address.ip().to_string()),
        part("POETRY_PORT", |address| address.port().to_string()),
    ];
    named.chain(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, is_main: bool, address: &str) -> (Place, SocketAddr) {
        (Place { name: name.to_owned(), is_main }, address.parse().expect("an address"))
    }

    fn fill(word: &str, places: &[(Place, SocketAddr)]) -> String {
        filled(OsStr::new(word), &tokens(places)).into_string().expect("UTF-8")
    }

    #[test]
    fn words_get_the_address_as_a_client_would_type_it() {
        for (address, whole, host) in [
            ("127.0.0.1:7", "127.0.0.1:7", "127.0.0.1"),
            ("0.0.0.0:7", "127.0.0.1:7", "127.0.0.1"),
            ("[::]:7", "[::1]:7", "::1"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7", "2001:db8::1"),
        ] {
            let address = reachable(address.parse().expect("an address"));
            let places = [(Place { name: "fastpoetry".to_owned(), is_main: true }, address)];
            assert_eq!(fill("{}", &places), whole);
            assert_eq!(fill("x{}{}y {host} {port}", &places), format!("x{whole}{whole}y {host} 7"));
            assert_eq!(variables(&places)["POETRY_ADDR"].as_deref(), Some(whole));
            assert_eq!(variables(&places)["POETRY_HOST"].as_deref(), Some(host));
        }
        let places = [place("a", true, "127.0.0.1:7")];
        for word in ["", "{", "{ }", "{print $1}", "{b}", "%{url}"] {
            assert_eq!(fill(word, &places), word);
        }
        let no_text = OsString::from_vec(b"\xff{}".to_vec());
        assert_eq!(filled(&no_text, &tokens(&places)).into_vec(), b"\xff127.0.0.1:7");
    }

    #[test]
    fn of_several_services_each_has_a_name_and_none_has_none() {
        let places = [
            place("fastpoetry-1", true, "127.0.0.1:1"),
            place("fastpoetry-2", true, "127.0.0.1:2"),
            place("metrics", false, "127.0.0.1:3"),
        ];
        assert_eq!(
            fill("{fastpoetry-2} {fastpoetry-1} {metrics} {}", &places),
            "127.0.0.1:2 127.0.0.1:1 127.0.0.1:3 {}"
        );
        let variables = variables(&places);
        assert_eq!(variables["POETRY_ADDR_FASTPOETRY_2"].as_deref(), Some("127.0.0.1:2"));
        assert_eq!(variables["POETRY_ADDR"], None);
        let args = |word: &str| CommandArgs { command: vec![word.into()], ..CommandArgs::default() };
        let resolve = |word: &str, places: &[(Place, SocketAddr)]| {
            let places: Vec<Place> = places.iter().map(|(place, _)| place.clone()).collect();
            args(word).resolve("poetryd", &places).map(|beside| beside.is_command()).map_err(|error| error.message)
        };
        for token in ["{}", "{host}", "{port}"] {
            let names = "{fastpoetry-1}, {fastpoetry-2}, {metrics}";
            let error = format!("{token} could be any service: write one of {names}");
            assert_eq!(resolve(&format!("x{token}"), &places), Err(error));
        }
        assert_eq!(resolve("{metrics}", &places), Ok(true));
        assert_eq!(resolve("{}", &places[1..]), Ok(true));
    }

    #[test]
    fn a_stop_by_a_signal_is_no_success() {
        assert_eq!(interrupted(0, None), 0);
        assert_eq!(interrupted(0, Some(Signal::SIGINT)), 130);
        assert_eq!(interrupted(3, Some(Signal::SIGTERM)), 3);
    }
}
