//! The cost model: what each thing that a client does takes of a processor, and of memory.

use serde::{Deserialize, Serialize};

use crate::client::Model;
use crate::report::table::Table;

/// The costs of a client, in nanoseconds of processor time and in bytes of memory.
///
/// The defaults were measured by `poetry-sim --calibrate` on a virtual machine with two processors, in 2026.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// The start and the end of a client's process.
    pub process: u64,
    /// A poem, from its beginning to its entry in the report, besides all that follows.
    pub poem: u64,
    /// A socket, connect(2), and close(2).
    pub connect: u64,
    /// A recv(2), of few bytes or of none.
    pub read: u64,
    /// What a recv(2) or write(2) takes besides for each KiB.
    pub copy_kib: u64,
    /// A write(2) of few bytes to a stream.
    pub write: u64,
    /// What the client itself does about an event of a poem, and writes down of it.
    pub step: u64,
    /// A call of poll(2) or epoll_wait(2) that finds nothing to wait for.
    pub wait: u64,
    /// What a round of the readiness loop takes besides for each descriptor: poll(2) looks at all, and so does the loop.
    pub descriptor: u64,
    /// What poll(2) takes besides for each descriptor before the first that is ready: it enters the wait queue of each, and
    /// leaves it in the end. If none is ready, that is all of them, and it looks at all again when it is woken.
    pub enqueue: u64,
    /// What epoll_wait(2) takes besides for each socket that is ready.
    pub ready: u64,
    /// To make a task, with its socket in epoll and its timers, and to end it.
    pub task: u64,
    /// A poll of a task.
    pub poll: u64,
    /// To put one thread to sleep, and to go on with another.
    pub switch: u64,
    /// The same where there is no other: the processor is idle until the thread is woken, and has lost much of its caches.
    pub idle: u64,
    /// To start a thread.
    pub thread: u64,
    /// What a thread takes besides, itself: its stack, and its end.
    pub thread_end: u64,
    /// Memory of a client without poems.
    pub process_bytes: u64,
    /// Memory of a poem in any model: what will be its entry in the report.
    pub poem_bytes: u64,
    /// Memory of a poem under way in a readiness loop.
    pub entry_bytes: u64,
    /// Memory of a task.
    pub task_bytes: u64,
    /// Memory that a thread touches: of its stack and of its read buffer.
    pub thread_bytes: u64,
    /// Kernel memory of a socket that is connected.
    pub socket_bytes: u64,
    /// Kernel memory of a thread.
    pub kernel_thread_bytes: u64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            process: 3_000_000,
            poem: 7_800,
            connect: 19_500,
            read: 1_070,
            copy_kib: 180,
            write: 230,
            step: 5_200,
            wait: 156,
            descriptor: 223,
            enqueue: 182,
            ready: 137,
            task: 12_800,
            poll: 77,
            switch: 3_250,
            idle: 42_800,
            thread: 53_000,
            thread_end: 76_600,
            process_bytes: 4_550_000,
            poem_bytes: 740,
            entry_bytes: 370,
            task_bytes: 2_035,
            thread_bytes: 26_200,
            socket_bytes: 2_940,
            kernel_thread_bytes: 17_500,
        }
    }
}

/// A field of the costs.
pub type Field = fn(&mut Costs) -> &mut u64;

/// The costs of time, with what they are the costs of.
const TIMES: [(&str, &str, Field); 17] = [
    ("process", "the start and the end of a client", |costs| &mut costs.process),
    ("poem", "a poem, from its beginning to the report", |costs| &mut costs.poem),
    ("connect", "socket(2), connect(2) and close(2)", |costs| &mut costs.connect),
    ("read", "recv(2) of few bytes, or of none", |costs| &mut costs.read),
    ("copy_kib", "recv(2) or write(2), besides, for each KiB", |costs| &mut costs.copy_kib),
    ("write", "write(2) of few bytes to a stream", |costs| &mut costs.write),
    ("step", "what the client does about an event of a poem", |costs| &mut costs.step),
    ("wait", "poll(2) or epoll_wait(2) of nothing", |costs| &mut costs.wait),
    ("descriptor", "poll(2) and its loop, besides, for each descriptor", |costs| &mut costs.descriptor),
    ("enqueue", "poll(2), besides, for each before the first that is ready", |costs| &mut costs.enqueue),
    ("ready", "epoll_wait(2), besides, for each ready socket", |costs| &mut costs.ready),
    ("task", "to make a task with its socket and its timers, and to end it", |costs| &mut costs.task),
    ("poll", "a poll of a task", |costs| &mut costs.poll),
    ("switch", "a thread falls asleep, and another goes on", |costs| &mut costs.switch),
    ("idle", "a thread falls asleep, none goes on, and it is woken", |costs| &mut costs.idle),
    ("thread", "to start a thread", |costs| &mut costs.thread),
    ("thread_end", "what a thread takes besides: its stack, and its end", |costs| &mut costs.thread_end),
];

/// The costs of memory, with what they are the costs of.
const SIZES: [(&str, &str, Field); 7] = [
    ("process_bytes", "a client without poems", |costs| &mut costs.process_bytes),
    ("poem_bytes", "a poem in any model: its entry in the report", |costs| &mut costs.poem_bytes),
    ("entry_bytes", "a poem under way in a readiness loop", |costs| &mut costs.entry_bytes),
    ("task_bytes", "a task", |costs| &mut costs.task_bytes),
    ("thread_bytes", "what a thread touches of its stack and its buffer", |costs| &mut costs.thread_bytes),
    ("socket_bytes", "a socket, in the kernel", |costs| &mut costs.socket_bytes),
    ("kernel_thread_bytes", "a thread, in the kernel", |costs| &mut costs.kernel_thread_bytes),
];

impl Costs {
    /// All costs: name, value with its unit, what it is the cost of.
    pub fn rows(&self) -> impl Iterator<Item = [String; 3]> {
        let mut costs = self.clone();
        let fields = TIMES.iter().map(|field| (field, "ns")).chain(SIZES.iter().map(|field| (field, "bytes")));
        fields.map(move |((name, what, field), unit)| {
            [(*name).to_owned(), format!("{} {unit}", field(&mut costs)), (*what).to_owned()]
        })
    }

    /// The name of the cost that this is a field of.
    pub fn name_of(field: Field) -> &'static str {
        let (mut costs, mut marked) = (Self::default(), Self::default());
        *field(&mut marked) = u64::MAX;
        let mut fields = TIMES.iter().chain(&SIZES);
        fields.find(|(.., its)| *its(&mut costs) != *its(&mut marked)).map_or("", |(name, ..)| name)
    }

    /// The same as a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["cost", "value", "of"]);
        self.rows().for_each(|row| table.push(row.to_vec()));
        table
    }

    /// The memory of a client, resident and in the kernel, when so many of its poems are under way at once, of so many.
    pub(super) fn memory(&self, model: Model, poems: u64, at_once: u64, threads: u64) -> Memory {
        let each = match model {
            Model::Blocking => self.entry_bytes,
            Model::Threads => self.thread_bytes,
            Model::Select => self.entry_bytes,
            Model::Async => self.task_bytes,
        };
        Memory {
            resident: self.process_bytes + poems * self.poem_bytes + at_once * each,
            kernel: at_once * self.socket_bytes + threads * self.kernel_thread_bytes,
        }
    }
}

/// Memory of a client at its peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Of the process: its resident set.
    pub(super) resident: u64,
    /// In the kernel, which no resident set shows.
    pub(super) kernel: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_has_a_row_and_is_kept_in_json() {
        let json = serde_json::to_value(Costs::default()).expect("JSON");
        let names = json.as_object().expect("an object");
        let text = Costs::default().table().to_text();
        assert_eq!(names.len(), TIMES.len() + SIZES.len());
        for (name, value) in names {
            let row = text.lines().find(|line| line.split_whitespace().next() == Some(name)).expect(name);
            assert!(row.contains(&format!(" {value} ")), "{row}");
        }
        assert_eq!(serde_json::from_value::<Costs>(json).expect("costs"), Costs::default());
        assert!(serde_json::from_str::<Costs>(r#"{"reed": 1}"#).is_err());
        assert_eq!(serde_json::from_str::<Costs>(r#"{"read": 1}"#).expect("costs").read, 1);
    }
}
