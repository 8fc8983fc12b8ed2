//! Whole runs of small scenarios.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::fit::{Measure, Probe, fit};
use super::*;
use crate::client::{Concurrency, FetchLimits, Model, Order, Source};
use crate::pace::{Pace, Plan, Tempo};
use crate::report::{Report, Simulated, Status};

const MS: Duration = Duration::from_millis(1);

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not 0")
}

/// So many poems of 30 bytes in three pieces, each from its own server, 100 ms away and back.
fn scenario(poems: u32) -> Scenario {
    let pace = Pace {
        num_bytes: std::num::NonZeroU64::new(10).expect("not 0"),
        tempo: Tempo::Delay(200 * MS),
        ..Pace::default()
    };
    let source = |poem| format!("10.0.0.{}:1", server_of(poem, poems, poems) % 255 + 1).parse().expect("a source");
    Scenario {
        servers: Servers {
            number: number(poems),
            kind: Kind::Slow,
            plan: Plan::uniform(7, pace),
            poem: vec![b'.'; 30].into(),
            backlog: 128,
            never_accept: false,
            listen_after: Duration::ZERO,
            never_read: false,
        },
        link: Link { rtt: 100 * MS, ..Link::default() },
        sources: (0..poems).map(source).collect::<Vec<Source>>().into(),
        limits: FetchLimits {
            connect_timeout: None,
            idle_timeout: None,
            timeout: None,
            max_size: None,
            retries: 3,
            retry_after_max: Duration::ZERO,
            concurrency: Concurrency::Together(NonZeroUsize::MAX),
        },
        order: None,
        machine: Machine { costs: Costs::default(), processors: number(2), threads: number(1_000), stack: 1 << 21 },
        seed: 7,
        with_events: true,
    }
}

#[test]
fn a_run_takes_two_round_trips_and_the_pace() {
    for model in Model::ALL {
        let report = run(model, &scenario(3), None);
        // connect, and half a round trip for each of the last segment of the handshake and the poem
        let one = Duration::from_micros(report.elapsed_us) / if model == Model::Blocking { 3 } else { 1 };
        assert!(one >= 600 * MS && one < 602 * MS, "{model}: {one:?}");
        assert_eq!((report.ok, report.tasks[2].events.entries().len()), (3, 3), "{model}");
    }
}

#[test]
fn the_same_scenario_gives_the_same_bytes_a_hundred_times() {
    let mut scenario = scenario(20);
    scenario.link = Link { rtt: 100 * MS, jitter: 40 * MS, loss: 0.05 };
    for model in Model::ALL {
        let first = run(model, &scenario, None).to_json();
        assert!((1..100).all(|_| run(model, &scenario, None).to_json() == first), "{model}");
    }
}

#[test]
fn what_a_model_does_takes_its_time() {
    let mut scenario = scenario(100);
    let quick = run(Model::Select, &scenario, None);
    scenario.machine.costs.read = 1_000_000;
    let dear = run(Model::Select, &scenario, None);
    // The reads of all poems fall together, and there is one thread: a hundred milliseconds each.
    assert!(dear.elapsed_us > quick.elapsed_us + 100_000, "{} {}", quick.elapsed_us, dear.elapsed_us);
    let on = |processors| {
        let machine = Machine { processors: number(processors), ..scenario.machine.clone() };
        run(Model::Threads, &Scenario { machine, ..scenario.clone() }, None).elapsed_us
    };
    assert!(on(1) > on(100) + 90_000, "{} {}", on(1), on(100));
}

#[test]
fn one_thread_is_never_on_two_processors() {
    let mut scenario = scenario(50);
    scenario.machine.costs.descriptor = 1_000_000;
    for model in [Model::Blocking, Model::Select, Model::Async] {
        let report = run(model, &scenario, None);
        let cpu = report.simulated.expect("it is").cpu_us - scenario.machine.costs.process / 1_000;
        assert!(cpu <= report.elapsed_us + 50_000, "{model}: {cpu} of {}", report.elapsed_us);
    }
}

#[test]
fn of_one_slow_server_poems_come_one_after_another() {
    let mut scenario = scenario(5);
    scenario.servers.number = number(1);
    let report = run(Model::Async, &scenario, None);
    let ends: Vec<u64> = report.tasks.iter().filter_map(|task| task.end_us).collect();
    // The next client is accepted when the one before has left: half a round trip there and back.
    let pauses: Vec<u64> = ends.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000).collect();
    assert_eq!(pauses, [500; 4]);
}

fn simulated(report: &Report) -> Simulated {
    report.simulated.expect("it is")
}

#[test]
fn a_poll_that_sleeps_costs_more_for_each_descriptor_than_one_that_does_not() {
    let cost = |change: fn(&mut Costs)| {
        let mut scenario = scenario(100);
        change(&mut scenario.machine.costs);
        simulated(&run(Model::Select, &scenario, None)).cpu_us
    };
    let (free, looks) = (cost(|_| {}), cost(|costs| costs.descriptor += 1_000_000));
    let sleeps = cost(|costs| costs.enqueue += 1_000_000);
    // All come at the same time: at the connection, and at each of the three pieces and the end.
    assert!(sleeps - free >= 4 * 100_000 && looks > sleeps, "{free} {sleeps} {looks}");
}

#[test]
fn a_processor_that_was_idle_is_dearer_to_wake_than_one_that_goes_on_with_another_thread() {
    let cost = |processors, change: fn(&mut Costs)| {
        let mut scenario = scenario(100);
        scenario.machine.processors = number(processors);
        // All begin at the same time, and so all are woken together.
        let costs = &mut scenario.machine.costs;
        (costs.poem, costs.connect, costs.thread, costs.thread_end) = (0, 0, 0, 0);
        change(&mut scenario.machine.costs);
        simulated(&run(Model::Threads, &scenario, None)).cpu_us
    };
    let [few, many] = [1, 1_000].map(|processors| {
        let free = cost(processors, |_| {});
        let idle = cost(processors, |costs| costs.idle += 1_000) - free;
        let switched = cost(processors, |costs| costs.switch += 1_000) - free;
        (idle, switched)
    });
    // One processor is woken once for a hundred threads; of a thousand, each is woken for one.
    assert!(few.0 < 20 && few.1 > 400, "{few:?}");
    assert!(many.0 > 400 && many.1 < 20, "{many:?}");
}

#[test]
fn what_waits_for_its_turn_on_a_stream_is_held_and_writing_takes_its_time() {
    let written = |order| {
        let mut scenario = Scenario { order, ..scenario(100) };
        scenario.servers.poem = vec![b'.'; 3_000].into();
        scenario.servers.plan = Plan::uniform(
            7,
            Pace {
                num_bytes: std::num::NonZeroU64::new(1_000).expect("not 0"),
                tempo: Tempo::Delay(200 * MS),
                ..Pace::default()
            },
        );
        scenario.machine.costs.write = 1_000_000;
        run(Model::Async, &scenario, None)
    };
    let nowhere = written(None);
    assert_eq!(simulated(&nowhere).held_kb, 0);
    // All grow together: the first one is written live, and when it is whole, the others have two pieces each.
    let request = written(Some(Order::Request { retries: false, by_line: false }));
    assert_eq!(simulated(&request).held_kb, 99 * 2_000 / 1_024);
    // None is written before it is whole.
    let completion = written(Some(Order::Completion));
    assert_eq!(simulated(&completion).held_kb, (100 * 2_000 + 1_000) / 1_024);
    for report in [&request, &completion] {
        // A client that writes is idle less often, which saves some of that.
        assert_eq!(report.ok, 100);
        assert!(simulated(report).cpu_us >= simulated(&nowhere).cpu_us + 85_000);
        assert!(report.elapsed_us >= nowhere.elapsed_us + 90_000);
    }
    let again = written(Some(Order::Completion));
    assert_eq!(again.to_json(), completion.to_json());
}

#[test]
fn a_fast_server_wakes_up_with_the_ticks_of_its_runtime_and_each_has_its_own() {
    let mut scenario = scenario(10);
    scenario.servers.kind = Kind::Fast;
    let report = run(Model::Threads, &scenario, None);
    let second = |task: usize| report.tasks[task].events.entries()[1].0;
    let phases: std::collections::BTreeSet<u64> = (0..10).map(|task| second(task) % 1_000).collect();
    assert!(phases.len() > 5, "{phases:?}");
}

#[test]
fn with_the_costs_that_are_found_runs_take_what_they_took() {
    let truth =
        Costs { process: 3_000_000, poem: 12_345, task: 7_000, idle: 43_210, task_bytes: 3_333, ..Costs::default() };
    let probe = |model, poems, of, cost| {
        let mut probe = Probe { model, scenario: scenario(poems), of, measured: 0, cost };
        probe.measured = probe.simulated(&truth);
        probe
    };
    let probes: Vec<Probe> = vec![
        probe(Model::Blocking, 1, Measure::Time, |costs| &mut costs.process),
        probe(Model::Select, 200, Measure::Time, |costs| &mut costs.poem),
        probe(Model::Async, 200, Measure::Time, |costs| &mut costs.task),
        probe(Model::Threads, 50, Measure::Time, |costs| &mut costs.idle),
        probe(Model::Async, 1_000, Measure::Memory, |costs| &mut costs.task_bytes),
    ];
    let mut costs = Costs::default();
    fit(&mut costs, &probes);
    for probe in &probes {
        let (simulated, name) = (probe.simulated(&costs), Costs::name_of(probe.cost));
        assert!(
            simulated.abs_diff(probe.measured) * 200 <= probe.measured,
            "{name}: {simulated}, not {}",
            probe.measured
        );
    }
    // Of those that make no difference to how often a client sleeps, only one value does.
    assert!(costs.process.abs_diff(truth.process) * 50 <= truth.process, "{costs:?}");
    assert!(costs.task_bytes.abs_diff(truth.task_bytes) * 50 <= truth.task_bytes, "{costs:?}");
}

#[test]
fn a_cost_is_never_less_than_nothing() {
    let scenario = scenario(10);
    let probe = Probe { model: Model::Select, scenario, of: Measure::Time, measured: 1, cost: |costs| &mut costs.poem };
    let mut costs = Costs::default();
    fit(&mut costs, &[probe]);
    assert_eq!(costs.poem, 0);
}

/// The most poems that were under way at one time.
pub(super) fn most_at_once(report: &Report) -> usize {
    let lanes: Vec<(u64, u64)> = report.tasks.iter().filter_map(|task| Some((task.start_us?, task.end_us?))).collect();
    let at = |moment: u64| lanes.iter().filter(|(start, end)| *start <= moment && moment < *end).count();
    lanes.iter().map(|(start, _)| at(*start)).max().unwrap_or(0)
}

#[test]
fn a_turn_begins_when_another_poem_is_settled_and_not_before() {
    for processors in 1..6 {
        let mut scenario = Scenario { link: Link::default(), ..scenario(60) };
        scenario.servers.plan = Plan::uniform(7, Pace::default());
        scenario.limits.concurrency = Concurrency::Together(NonZeroUsize::new(3).expect("not 0"));
        scenario.machine.processors = number(processors);
        scenario.machine.costs.step = 200_000;
        for model in Model::ALL {
            let report = run(model, &scenario, None);
            assert_eq!(report.ok, 60);
            assert!(most_at_once(&report) <= 3, "{model}, {processors} processors");
        }
    }
}

#[test]
fn a_thread_waits_for_a_processor_and_not_for_a_tick() {
    let mut scenario = scenario(50);
    (scenario.machine.processors, scenario.machine.costs.thread) = (number(4), 10_000);
    let report = run(Model::Threads, &scenario, None);
    for task in &report.tasks {
        let waited = task.attempt_us.expect("begun") - task.start_us.expect("begun");
        assert!(waited < 300, "{waited}");
    }
}

#[test]
fn a_limit_that_is_over_makes_no_socket_ready() {
    let mut scenario = scenario(10);
    scenario.servers.plan = Plan::uniform(7, Pace { first_byte_delay: 1_000 * MS, ..Pace::default() });
    scenario.limits.retries = 0;
    scenario.limits.idle_timeout = Some(300 * MS);
    let report = run(Model::Select, &scenario, None);
    // Each was told once that it is connected.
    assert_eq!((report.failed, report.calls.wakeups, report.calls.reads), (10, 10, 0));
}

#[test]
fn a_run_ends_with_virtual_time_and_no_sum_overflows() {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let far = Scenario { link: Link { rtt: 250 * YEAR, jitter: 600 * YEAR, loss: 0.5 }, ..scenario(5) };
    let farther = Scenario { link: Link { rtt: Duration::MAX, jitter: Duration::MAX, loss: 0.5 }, ..scenario(5) };
    let mut slow = scenario(5);
    slow.servers.plan = Plan::uniform(7, Pace { tempo: Tempo::Delay(Duration::MAX), ..Pace::default() });
    let mut late = scenario(5);
    late.servers.plan = Plan::uniform(7, Pace { first_byte_delay: Duration::MAX, ..Pace::default() });
    let mut dear = scenario(5);
    let costs = &mut dear.machine.costs;
    for cost in [&mut costs.process, &mut costs.poem, &mut costs.connect, &mut costs.read, &mut costs.step] {
        *cost = u64::MAX;
    }
    let mut looks = scenario(5);
    let costs = &mut looks.machine.costs;
    for cost in [&mut costs.wait, &mut costs.descriptor, &mut costs.enqueue, &mut costs.ready, &mut costs.poll] {
        *cost = u64::MAX;
    }
    let costs = &mut looks.machine.costs;
    (costs.idle, costs.switch, costs.thread, costs.copy_kib) = (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    looks.machine.stack = u64::MAX;
    for mut scenario in [far, farther, slow, late, dear, looks] {
        for (kind, model) in [Kind::Slow, Kind::Fast].into_iter().flat_map(|kind| Model::ALL.map(|model| (kind, model)))
        {
            scenario.servers.kind = kind;
            let report = run(model, &scenario, None);
            assert_eq!(Some(report.elapsed_us), report.tasks.iter().filter_map(|task| task.end_us).max());
            assert!(report.ok + report.failed == 5 && report.bound_us <= Some(report.elapsed_us));
        }
    }
}

#[test]
fn poems_that_would_come_after_the_end_of_time_are_interrupted() {
    let mut scenario = scenario(3);
    scenario.link.rtt = Duration::from_secs(1 << 60);
    let report = run(Model::Select, &scenario, None);
    assert_eq!((report.failed, report.elapsed_us), (3, (1 << 63) / 1_000));
    assert!(report.tasks.iter().all(|task| task.status == Status::Interrupted));
}

#[test]
fn a_cost_that_makes_no_difference_stays_as_it_was() {
    // No poem is written: nothing that is measured is more if writing costs more.
    let probe = Probe {
        model: Model::Select,
        scenario: scenario(2),
        of: Measure::Time,
        measured: u64::MAX / 2,
        cost: |costs| &mut costs.write,
    };
    let (mut costs, before) = (Costs::default(), Costs::default());
    fit(&mut costs, &[probe]);
    assert_eq!(costs, before);
}
