//! A run of one model: which thread has a processor when, and what it does then.
//!
//! Every model is threads that work in stretches. A stretch takes the time of the calls that are made in it; what it
//! causes, it causes at their times; and a thread that has become ready waits for a processor like any other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::{Lane, Manner};
use super::queue::Nanos;
use super::server::Net;
use super::stream::Stream;
use super::{After, Clock, Event, Narrator, Scenario};
use crate::client::{IN_MEMORY, Job, Model, Observer, ReportBuilder, Sink, Task, Turns};
use crate::report::{Peak, Report, Simulated};
use crate::units::count;

/// Simulates a run of one model. Returns its report, as of a live run, marked as simulated.
pub fn run(model: Model, scenario: &Scenario, narrator: Option<&Arc<Narrator>>) -> Report {
    let clock = Instant::now();
    let (sources, concurrency) = (&scenario.sources, scenario.limits.concurrency);
    let builder = ReportBuilder::new(model, Arc::clone(sources), concurrency, clock, scenario.with_events);
    let builder = Arc::new(builder);
    let mut observers: Vec<Arc<dyn Observer>> = vec![builder.clone()];
    observers.extend(narrator.map(|narrator| Arc::new(Told(Arc::clone(narrator))) as Arc<dyn Observer>));
    let limits = scenario.limits.clone();
    let (sink, stream) = match scenario.order {
        Some(order) => Stream::sink(order, sources.len(), &scenario.machine.costs),
        None => (Sink::discard(), Arc::default()),
    };
    let job = Arc::new(Job::new(Arc::clone(sources), limits, sink, observers, clock, scenario.seed));
    job.counts.add_thread();
    let mut world = World::new(model, scenario, &job, &stream, narrator.map(|narrator| &**narrator), clock);
    let now = world.run();
    let (cpu, at_once, events) = (world.cpu, world.most_at_once, world.net.queue.events());
    drop(world);
    let (calls, threads, held) = (job.calls(), job.peak_threads(), job.sink().most_held());
    drop(job);
    let memory = scenario.machine.costs.memory(model, sources.len() as u64, at_once, threads);
    let simulated = Simulated {
        seed: scenario.seed,
        cpu_us: cpu / 1_000,
        kernel_kb: memory.kernel / 1_024,
        stacks_kb: (threads - 1).saturating_mul(scenario.machine.stack) / 1_024,
        at_once,
        held_kb: held / 1_024,
        events,
    };
    let report = take(builder).into_simulated(calls, Duration::from_nanos(now), simulated);
    Report {
        peak: Some(Peak { threads, rss_kb: Some((memory.resident + held.min(IN_MEMORY as u64)) / 1_024) }),
        ..report
    }
}

/// The builder, which is nobody else's any more.
fn take(builder: Arc<ReportBuilder>) -> ReportBuilder {
    Arc::into_inner(builder).expect("the job that told it is gone")
}

/// The end of virtual time, 292 years after its beginning: what comes then is no more than a sum away from an overflow.
const END: Nanos = 1 << 63;

/// The thread that every program has. Those of poems follow.
const MAIN: u32 = 0;

/// After so many polls of tasks a runtime of tokio looks for ready sockets, and for timers.
const POLLS: usize = 61;

struct World<'a> {
    manner: Manner<'a>,
    scenario: &'a Scenario,
    job: &'a Arc<Job>,
    net: Net<'a>,
    turns: Turns,
    /// The poems that are under way.
    lanes: Vec<Option<Box<Lane>>>,
    /// Of each poem, whether it is among those that can go on. Apart, because that is asked for whenever something comes.
    is_queued: Vec<bool>,
    at_once: u64,
    most_at_once: u64,
    /// Sockets that the one thread waits for.
    sockets: u64,
    unsettled: usize,
    /// Poems of the one thread that can go on, and have not.
    ready: VecDeque<u32>,
    /// The main thread sleeps in the call that waits, or because there is nothing to do.
    is_asleep: bool,
    /// It has been woken from that.
    is_woken: bool,
    /// It waits for a processor.
    is_main_queued: bool,
    /// It has one.
    is_main_working: bool,
    /// The poem that the blocking client is about.
    current: Option<u32>,
    threads: u32,
    processors: u32,
    /// Threads that wait for a processor.
    runnable: VecDeque<u32>,
    cpu: Nanos,
    /// The end of the latest stretch of work.
    worked: Nanos,
}

impl<'a> World<'a> {
    fn new(
        model: Model,
        scenario: &'a Scenario,
        job: &'a Arc<Job>,
        stream: &'a Stream,
        narrator: Option<&'a Narrator>,
        clock: Instant,
    ) -> Self {
        let (servers, costs) = (&scenario.servers, &scenario.machine.costs);
        let poems = scenario.sources.len();
        let (number, poems_of_all) = (servers.number.get(), u32::try_from(poems).unwrap_or(u32::MAX));
        let manner = Manner { model, costs, stream, servers: number, poems: poems_of_all };
        Self {
            manner,
            scenario,
            job,
            net: Net::new(servers, scenario.link, scenario.seed, clock, narrator),
            turns: Turns::new(&scenario.sources, model.concurrency(scenario.limits.concurrency)),
            lanes: (0..poems).map(|_| None).collect(),
            is_queued: vec![false; poems],
            at_once: 0,
            most_at_once: 0,
            sockets: 0,
            unsettled: poems,
            ready: VecDeque::new(),
            is_asleep: false,
            is_woken: false,
            is_main_queued: false,
            is_main_working: false,
            current: None,
            threads: 0,
            processors: scenario.machine.processors.get(),
            runnable: VecDeque::new(),
            cpu: costs.process,
            worked: 0,
        }
    }

    /// Lets everything happen until all poems are settled, or nothing will happen any more. Returns when that is.
    fn run(&mut self) -> Nanos {
        let mut now = 0;
        (self.is_main_queued, self.processors) = (true, self.processors - 1);
        self.net.queue.push(now, Event::Run(MAIN, After::Itself));
        while self.unsettled > 0 {
            let Some((at, event)) = self.net.queue.pop() else { break };
            self.net.told_until(at);
            if at >= END {
                now = self.worked.max(END);
                break;
            }
            now = at;
            match event {
                Event::Net(connection, what) => {
                    if let Some(poem) = self.net.happen(connection, what, now) {
                        self.is_ready(poem, now);
                    }
                }
                Event::Timer(poem) => {
                    let lane = self.lanes[poem as usize].as_mut();
                    if lane.is_some_and(|lane| lane.timer_is_over(&mut self.net, now)) {
                        self.is_ready(poem, now);
                    }
                }
                Event::Begun(poem) => self.is_ready(poem, now),
                Event::Settled(poem) => self.settled(poem, now),
                Event::Run(thread, after) => {
                    let mut clock = Clock::new(now);
                    clock.spend(match after {
                        After::Itself => 0,
                        After::Others => self.manner.costs.switch,
                        After::Idle => self.manner.costs.idle,
                    });
                    self.work(thread, &mut clock);
                    self.cpu = self.cpu.saturating_add(clock.spent);
                    self.worked = self.worked.max(clock.now());
                    self.net.queue.push(clock.now(), Event::Pause(thread));
                }
                Event::Pause(thread) => {
                    self.is_main_working &= thread != MAIN;
                    if thread == MAIN && !self.is_asleep && !self.is_main_queued {
                        self.is_main_queued = true;
                        self.runnable.push_back(MAIN);
                    }
                    match self.runnable.pop_front() {
                        Some(next) => {
                            let after = if next == thread { After::Itself } else { After::Others };
                            self.net.queue.push(now, Event::Run(next, after));
                        }
                        None => self.processors += 1,
                    }
                }
            }
        }
        self.lanes.iter_mut().flatten().for_each(|lane| lane.interrupt());
        self.net.told_until(Nanos::MAX);
        now
    }

    /// A thread can go on: it gets a processor, or waits for one.
    fn wants_processor(&mut self, thread: u32, now: Nanos) {
        self.is_main_queued |= thread == MAIN;
        if self.processors == 0 {
            return self.runnable.push_back(thread);
        }
        self.processors -= 1;
        self.net.queue.push(now, Event::Run(thread, After::Idle));
    }

    /// A poem can go on: its socket is ready, or its time is over.
    fn is_ready(&mut self, poem: u32, now: Nanos) {
        if std::mem::replace(&mut self.is_queued[poem as usize], true) {
            return;
        }
        match self.manner.model {
            Model::Threads => self.wants_processor(poem + 1, now),
            Model::Blocking | Model::Select | Model::Async => {
                self.ready.push_back(poem);
                self.wake_main(now);
            }
        }
    }

    fn wake_main(&mut self, now: Nanos) {
        if self.is_asleep {
            (self.is_asleep, self.is_woken) = (false, true);
            // If it is about to fall asleep, it goes on when that stretch is over: it cannot be on two processors.
            if !self.is_main_working {
                self.wants_processor(MAIN, now);
            }
        }
    }

    /// A stretch of work of a thread.
    fn work(&mut self, thread: u32, clock: &mut Clock) {
        if thread != MAIN {
            return self.go_on(thread - 1, clock);
        }
        (self.is_main_queued, self.is_main_working) = (false, true);
        let was_asleep = std::mem::take(&mut self.is_woken);
        match self.manner.model {
            Model::Blocking => self.work_one_by_one(clock),
            Model::Threads => self.start_a_thread(clock),
            Model::Select => self.poll(was_asleep, clock),
            Model::Async => self.poll_tasks(was_asleep, clock),
        }
    }

    /// One poem, as far as it goes without waiting; or the next one.
    fn work_one_by_one(&mut self, clock: &mut Clock) {
        if self.current.is_none() {
            self.current = self.next_turn();
            let Some(index) = self.current else {
                self.is_asleep = true;
                return;
            };
            self.begin(index, clock);
        }
        self.ready.clear();
        if let Some(poem) = self.current {
            self.go_on(poem, clock);
            if self.lanes[poem as usize].is_none() {
                self.current = None;
                return;
            }
        }
        self.is_asleep = true;
    }

    /// The next thread, if there may be one more.
    fn start_a_thread(&mut self, clock: &mut Clock) {
        let next = if self.threads < self.scenario.machine.threads.get() { self.next_turn() } else { None };
        let Some(index) = next else {
            self.is_asleep = true;
            return;
        };
        clock.spend(self.manner.costs.thread);
        self.threads += 1;
        self.job.counts.add_thread();
        self.begin(index, clock);
        self.net.queue.push(clock.now(), Event::Begun(index));
    }

    /// A round of the readiness loop: new poems, or the call that waits and what comes of it.
    fn poll(&mut self, was_asleep: bool, clock: &mut Clock) {
        if !was_asleep {
            let mut has_begun = false;
            while let Some(index) = self.next_turn() {
                has_begun = true;
                self.begin(index, clock);
                self.go_on(index, clock);
            }
            // What has happened meanwhile is to be seen first.
            if has_begun {
                return;
            }
            self.job.counts.add_wait();
            let costs = self.manner.costs;
            clock.spend(self.sockets.saturating_mul(costs.descriptor).saturating_add(costs.wait));
            // The first of so many that are ready stands, as a rule, behind that part of all.
            clock.spend((self.sockets / (self.ready.len() as u64 + 1)).saturating_mul(costs.enqueue));
            if self.ready.is_empty() {
                self.is_asleep = true;
                return;
            }
        }
        let mut ready: Vec<u32> = self.ready.drain(..).collect();
        ready.sort_unstable();
        for poem in ready {
            // Not if its time is over: poll(2) says nothing of its socket then.
            if self.lanes[poem as usize].as_ref().is_some_and(|lane| lane.is_ready(&mut self.net)) {
                self.job.counts.add_wakeup();
            }
            self.go_on(poem, clock);
        }
    }

    /// A round of the runtime: new tasks, and some of those that can go on; or the call that waits.
    fn poll_tasks(&mut self, was_asleep: bool, clock: &mut Clock) {
        let costs = self.manner.costs;
        while let Some(index) = self.next_turn() {
            clock.spend(costs.task);
            self.begin(index, clock);
            self.is_queued[index as usize] = true;
            self.ready.push_back(index);
        }
        if !was_asleep {
            clock.spend(costs.wait);
        }
        if self.ready.is_empty() {
            self.job.counts.add_wait();
            self.is_asleep = true;
            return;
        }
        for _ in 0..POLLS {
            let Some(poem) = self.ready.pop_front() else { return };
            clock.spend(costs.ready.saturating_add(costs.poll));
            self.go_on(poem, clock);
        }
    }

    /// The next poem that may begin.
    fn next_turn(&mut self) -> Option<u32> {
        self.turns.next().map(|index| u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn begin(&mut self, poem: u32, clock: &mut Clock) {
        clock.spend(self.manner.costs.poem);
        self.lanes[poem as usize] = Some(Lane::begin(self.job, poem, &self.net, clock));
        self.at_once += 1;
        self.most_at_once = self.most_at_once.max(self.at_once);
    }

    /// Lets a poem go on, and ends what it was if it is settled with that.
    fn go_on(&mut self, poem: u32, clock: &mut Clock) {
        let Some(mut lane) = self.lanes[poem as usize].take() else { return };
        self.sockets -= u64::from(lane.has_socket());
        self.is_queued[poem as usize] = false;
        lane.go_on(&self.manner, &mut self.net, clock);
        self.sockets += u64::from(lane.has_socket());
        if lane.is_ready(&mut self.net) {
            // After one step of several: it is among those that can go on at once.
            self.is_queued[poem as usize] = true;
            self.ready.push_back(poem);
        }
        if !lane.is_settled() {
            self.lanes[poem as usize] = Some(lane);
            return;
        }
        match self.manner.model {
            // Until then, the other threads know nothing of it.
            Model::Threads => {
                clock.spend(self.manner.costs.thread_end);
                self.net.queue.push(clock.now(), Event::Settled(poem));
            }
            Model::Blocking | Model::Select | Model::Async => self.settled(poem, clock.now()),
        }
    }

    /// A poem is settled, and with it its thread is at its end.
    fn settled(&mut self, poem: u32, now: Nanos) {
        self.unsettled -= 1;
        self.at_once -= 1;
        self.turns.settled(&self.scenario.sources[poem as usize]);
        if self.manner.model == Model::Threads {
            self.threads -= 1;
            self.job.counts.end_thread();
            self.wake_main(now);
        }
    }
}

/// The observer that tells a narrator.
struct Told(Arc<Narrator>);

impl Observer for Told {
    fn observe(&self, task: Task<'_>, at: Duration, event: &crate::client::Event<'_>) {
        use crate::client::Event;
        let what = match event {
            Event::Attempt(1) => "connects".to_owned(),
            Event::Attempt(number) => format!("connects, for the {number}. time"),
            Event::Connected { .. } => "is connected".to_owned(),
            Event::Received(bytes) => format!("reads {}", count(*bytes as u64, "byte")),
            Event::Retry { failure, pause } => {
                format!("fails: {failure}; another attempt in {}", crate::units::human(*pause))
            }
            Event::Done { bytes, .. } => format!("is whole, with {}", count(*bytes, "byte")),
            Event::Failed(failure) => format!("is lost: {failure}"),
            _ => return,
        };
        self.0.note(at, format!("poem {}: {what}", task.number));
    }
}
