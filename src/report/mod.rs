//! The report of a run: plain data, its JSON and its tally; as a picture ([`waterfall`]) and in tables ([`table`]).
//!
//! A [`Report`] is all that is known of one run of a client. Tables, tallies and pictures are made from reports and
//! from nothing else. `docs/report.schema.json` describes the JSON form.

mod attempt;
pub mod curves;
mod environment;
mod events;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod seen;
pub mod table;
pub mod waterfall;

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::attempt::{Attempt, Attempts};
pub use self::environment::{Environment, Peak};
pub use self::events::Events;
use crate::units::{Micros, count, human};

/// The report of one run of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this format: [`Report::SCHEMA`].
    pub schema: u32,
    /// The model of waiting: `async`, `blocking`, `threads` or `select`.
    pub model: Cow<'static, str>,
    /// That nothing of it was real, neither time nor sockets, and what it would have cost; `None`: it was. Absent from JSON
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<Simulated>,
    /// When the run began; RFC 3339 in JSON.
    #[serde(serialize_with = "to_rfc3339", deserialize_with = "from_rfc3339")]
    pub started: SystemTime,
    /// The time from the start of the run to the end of its last poem.
    pub elapsed_us: Micros,
    /// The least time in which these poems could have come, each taking as long as it did: a client that loses no time
    /// would have needed it. `None`: some poem never began.
    #[serde(default)]
    pub bound_us: Option<Micros>,
    /// Poems that arrived whole and were delivered.
    pub ok: usize,
    /// Poems that failed.
    pub failed: usize,
    /// System calls and wake-ups of the whole run.
    pub calls: Calls,
    /// The most that the client had of threads and memory; `None`: not known.
    #[serde(default)]
    pub peak: Option<Peak>,
    /// The machine and the command line; `None`: not known.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// One entry a poem, in the order of the command line.
    pub tasks: Vec<TaskReport>,
}

/// The costs of a simulated run, which follow from a cost model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulated {
    /// The seed of all chance.
    pub seed: u64,
    /// Processor time, start and end of the process included.
    pub cpu_us: Micros,
    /// Memory in the kernel at most, for sockets and threads, in kB of 1,024 bytes.
    pub kernel_kb: u64,
    /// Address space of the stacks of threads at most, in kB of 1,024 bytes.
    pub stacks_kb: u64,
    /// The most poems that were under way at one time.
    pub at_once: u64,
    /// The most that waited for its turn to be written, of poems that were written, in kB of 1,024 bytes.
    #[serde(default)]
    pub held_kb: u64,
    /// Events of the simulation.
    pub events: u64,
}

/// Counts of system calls and wake-ups: the cost of waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Calls of recv(2) for poems, the ones that found nothing and the ends of stream included.
    pub reads: u64,
    /// Calls that wait for many sockets at once: poll(2), or the runtime's epoll_wait(2).
    /// Zero where the read itself waits.
    pub waits: u64,
    /// Wake-ups of poems that may have slept: a blocking connect(2), recv(2) or send(2) that returned, a
    /// socket that poll(2) called ready, a task that the runtime polled.
    pub wakeups: u64,
}

/// The report of one poem. Moments that were never reached are `None`.
///
/// After a retry, everything but `start_us`, `attempts` and `earlier` speaks of the last attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The number of the poem, from 1.
    pub task: usize,
    /// The server, `HOST:PORT`.
    pub address: String,
    /// The name of the poem, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How the fetch ended.
    pub status: Status,
    /// Why the fetch failed, in words.
    pub error: Option<String>,
    /// Which of the client's own limits ran out, if that was why.
    #[serde(default)]
    pub limit: Option<Limit>,
    /// Bytes received.
    pub bytes: u64,
    /// Attempts: 1 without a retry, 0 if the poem was never begun.
    pub attempts: u32,
    /// When the poem's turn came.
    pub start_us: Option<Micros>,
    /// When the last attempt began. `None` if there was none, or if the poem was interrupted in the pause before it: then
    /// the one that was made last is the last of `earlier`. Reports of schema 1 do not have it.
    #[serde(default)]
    pub attempt_us: Option<Micros>,
    /// When the connection stood.
    pub connected_us: Option<Micros>,
    /// When the first byte was read.
    pub first_byte_us: Option<Micros>,
    /// When the poem was whole in its last form, and only had to be delivered.
    #[serde(default)]
    pub whole_us: Option<Micros>,
    /// When the poem was delivered, or had failed for good.
    pub end_us: Option<Micros>,
    /// The reads; empty if they were not recorded.
    pub events: Events,
    /// The attempts that failed before the last one. Reports of schema 1 do not have them.
    #[serde(default)]
    pub earlier: Attempts,
    /// The exchange with a transform server, if the poem was sent to one.
    pub transform: Option<Box<TransformReport>>,
    /// What there is to say of a poem over HTTP.
    #[serde(flatten)]
    pub http: Option<HttpReport>,
}

/// The report of the requests for one poem, over HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReport {
    /// The status of the last reply; `None`: there was none.
    pub http_status: Option<u16>,
    /// Requests: 1 without redirects and the like.
    pub requests: u32,
    /// Redirects that were followed.
    pub redirects: u32,
    /// Requests over a connection that had been used before.
    pub reused: u32,
}

/// The report of one exchange with a transform server. Whether it succeeds or fails, the poem is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformReport {
    /// The name of the transform.
    pub name: String,
    /// The transform server, `HOST:PORT`.
    pub address: String,
    /// How the exchange ended.
    pub status: Status,
    /// Why the exchange failed, in words.
    pub error: Option<String>,
    /// Which of the client's own limits ran out, if that was why.
    #[serde(default)]
    pub limit: Option<Limit>,
    /// Bytes of the changed poem.
    pub bytes: u64,
    /// When the poem was whole, and the exchange began.
    pub start_us: Micros,
    /// When the connection stood.
    pub connected_us: Option<Micros>,
    /// When the reply was complete, or the transform had failed.
    pub end_us: Option<Micros>,
}

/// How the fetch of a poem ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The poem is whole.
    Ok,
    /// An HTTP server has no such poem: 404 or 410.
    NotFound,
    /// An HTTP reply breaks off: what arrived is not the whole poem.
    Truncated,
    /// No server listens at the address.
    Refused,
    /// The connection was reset: what arrived is not a poem.
    Reset,
    /// One of the client's own limits ran out, or the kernel's.
    Timeout,
    /// No route to the host, or its name has no address.
    Unreachable,
    /// The client was stopped first.
    Interrupted,
    /// Anything else: a file that cannot be written, or a poem that is longer than its limit.
    Error,
}

/// A limit of a client on how long it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// For the connection: `--connect-timeout`.
    Connect,
    /// For the next byte: `--idle-timeout`.
    Idle,
    /// For all of it: `--timeout`.
    Total,
}

impl Limit {
    /// The name of the limit, in JSON and in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Idle => "idle",
            Self::Total => "total",
        }
    }
}

impl Status {
    /// The name of the status, in JSON, in logs and in pictures.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Truncated => "truncated",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Interrupted => "interrupted",
            Self::Error => "error",
        }
    }
}

impl TaskReport {
    /// The report of a poem of which nothing has happened yet; until it is settled, it counts as interrupted.
    pub fn unbegun(task: usize, address: String) -> Self {
        Self {
            task,
            address,
            name: None,
            status: Status::Interrupted,
            error: None,
            limit: None,
            bytes: 0,
            attempts: 0,
            start_us: None,
            attempt_us: None,
            connected_us: None,
            first_byte_us: None,
            whole_us: None,
            end_us: None,
            events: Events::default(),
            earlier: Attempts::default(),
            transform: None,
            http: None,
        }
    }
}

impl Report {
    /// The version of the format that this type serializes to.
    pub const SCHEMA: u32 = 2;

    /// The tally: `Got 3 poems in 23s 65ms`, or `Got 2 of 3 poems in ...`. Of poems over HTTP it says what the others came
    /// to: `Got 150 of 676 poems in 7s 460ms: 361 not found, 165 errors`.
    pub fn tally(&self) -> String {
        self.tally_in(&human(Duration::from_micros(self.elapsed_us)))
    }

    /// The tally, with the time written as `elapsed`.
    fn tally_in(&self, elapsed: &str) -> String {
        let all = count(self.tasks.len() as u64, "poem");
        if self.ok == self.tasks.len() {
            format!("Got {all} in {elapsed}")
        } else {
            format!("Got {} of {all} in {elapsed}{}", self.ok, self.losses())
        }
    }

    /// What the poems came to that did not arrive, if some of all are over HTTP.
    fn losses(&self) -> String {
        let is_not_found = |status| status == Status::NotFound;
        let is_interrupted = |status| status == Status::Interrupted;
        let number = |is_it: &dyn Fn(Status) -> bool| self.tasks.iter().filter(|task| is_it(task.status)).count();
        let (not_found, interrupted) = (number(&is_not_found), number(&is_interrupted));
        let errors = self.tasks.len() - self.ok - not_found - interrupted;
        let parts: Vec<String> = [
            (not_found > 0).then(|| format!("{not_found} not found")),
            (errors > 0).then(|| count(errors as u64, "error")),
            (interrupted > 0).then(|| format!("{interrupted} interrupted")),
        ]
        .into_iter()
        .flatten()
        .collect();
        match self.tasks.iter().any(|task| task.http.is_some()) {
            true => format!(": {}", parts.join(", ")),
            false => String::new(),
        }
    }

    /// The report as one line of JSON, with its newline.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string(self).expect("plain data has a JSON form");
        json.push('\n');
        json
    }
}

fn from_rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(D::Error::custom)
}

fn to_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(task: usize, status: Status) -> TaskReport {
        TaskReport {
            task,
            address: format!("127.0.0.1:{}", 9_999 + task),
            name: None,
            status,
            error: None,
            limit: None,
            bytes: 30,
            attempts: 1,
            start_us: Some(0),
            attempt_us: Some(0),
            connected_us: Some(100),
            first_byte_us: None,
            whole_us: None,
            end_us: Some(300),
            events: Events::default(),
            earlier: Attempts::default(),
            transform: None,
            http: None,
        }
    }

    fn report(tasks: Vec<TaskReport>) -> Report {
        let ok = tasks.iter().filter(|task| task.status == Status::Ok).count();
        Report {
            schema: Report::SCHEMA,
            model: "async".into(),
            simulated: None,
            started: SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000),
            elapsed_us: 23_065_999,
            bound_us: None,
            ok,
            failed: tasks.len() - ok,
            calls: Calls::default(),
            peak: None,
            environment: None,
            tasks,
        }
    }

    #[test]
    fn the_tally_says_how_many_of_how_many() {
        let (good, bad) = (task(1, Status::Ok), task(2, Status::Reset));
        assert_eq!(report(vec![good.clone()]).tally(), "Got 1 poem in 23s 65ms");
        assert_eq!(report(vec![good.clone(), good.clone()]).tally(), "Got 2 poems in 23s 65ms");
        assert_eq!(report(vec![good, bad.clone()]).tally(), "Got 1 of 2 poems in 23s 65ms");
        assert_eq!(report(vec![bad]).tally(), "Got 0 of 1 poem in 23s 65ms");
    }

    #[test]
    fn json_is_one_line_with_stable_names() {
        let mut poem = task(1, Status::Ok);
        poem.events.push(250, 30);
        assert_eq!(
            report(vec![poem]).to_json(),
            concat!(
                r#"{"schema":2,"model":"async","started":"1970-01-01T00:00:01.500000Z","elapsed_us":23065999,"bound_us":null,"#,
                r#""ok":1,"failed":0,"calls":{"reads":0,"waits":0,"wakeups":0},"peak":null,"environment":null,"tasks":[{"task":1,"#,
                r#""address":"127.0.0.1:10000","status":"ok","error":null,"limit":null,"bytes":30,"attempts":1,"start_us":0,"#,
                r#""attempt_us":0,"connected_us":100,"first_byte_us":null,"whole_us":null,"end_us":300,"events":[[250,30]],"#,
                r#""earlier":[],"transform":null}]}"#,
                "\n"
            )
        );
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let mut poem = task(1, Status::Timeout);
        poem.name = Some("donne".to_owned());
        poem.events.push(250, 30);
        let report = report(vec![task(1, Status::Ok), poem]);
        let read: Report = serde_json::from_str(&report.to_json()).expect("a report");
        assert_eq!((read.to_json(), read.started, read.tasks.len()), (report.to_json(), report.started, 2));
        let json = serde_json::to_string(&Status::Unreachable).expect("JSON");
        assert_eq!(json, format!("\"{}\"", Status::Unreachable.word()));
    }

    #[test]
    fn reports_of_schema_1_are_read() {
        let new = report(vec![task(1, Status::Ok)]).to_json();
        let old = new.replace(r#""schema":2"#, r#""schema":1"#).replace(r#""attempt_us":0,"#, "");
        let old = old.replace(r#""earlier":[],"#, "");
        assert_eq!(new.len() - old.len(), r#""attempt_us":0,"earlier":[],"#.len());
        let read: Report = serde_json::from_str(&old).expect("a report");
        assert_eq!((read.schema, read.tasks[0].attempt_us, read.tasks[0].earlier.known().len()), (1, None, 0));
    }
}
