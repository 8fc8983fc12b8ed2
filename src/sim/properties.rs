//! What holds of every run, whatever the scenario: properties over random ones.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::option;
use proptest::prelude::*;

use super::tests::most_at_once;
use super::*;
use crate::client::{Concurrency, FetchLimits, Model, Order, Source};
use crate::pace::{Cut, CutAt, Ending, Pace, Plan, Tempo};
use crate::report::{Attempt, Report, Status, TaskReport};
use crate::sync::lock;
use crate::units::Micros;

/// A scenario, and what is known of it besides.
#[derive(Debug, Clone)]
struct Case {
    model: Model,
    scenario: Scenario,
    /// The most poems at once.
    at_once: usize,
    /// A poem may end early, and look whole.
    may_be_short: bool,
}

fn millis(most: u64) -> impl Strategy<Value = Duration> {
    (0..=most).prop_map(Duration::from_millis)
}

fn paces() -> impl Strategy<Value = Pace> {
    let tempo = prop_oneof![
        millis(300).prop_map(Tempo::Delay),
        (1..10_000_u64).prop_map(|rate| Tempo::Rate(NonZeroU64::new(rate).expect("not 0"))),
    ];
    let at = prop_oneof![(0..4_000_u64).prop_map(CutAt::Bytes), millis(1_000).prop_map(CutAt::Time)];
    let how = prop_oneof![Just(Ending::Fin), Just(Ending::Rst), Just(Ending::Hang)];
    let cut = option::of((at, how).prop_map(|(at, how)| Cut { at, how }));
    let bytes = (100..4_000_u64).prop_map(|bytes| NonZeroU64::new(bytes).expect("not 0"));
    (millis(500), bytes, tempo, millis(200), cut).prop_map(|(first_byte_delay, num_bytes, tempo, jitter, cut)| Pace {
        first_byte_delay,
        num_bytes,
        tempo,
        jitter,
        cut,
    })
}

prop_compose! {
    fn servers(number: u32)(
        pace in paces(),
        failures in 0..3_u64,
        cycle in option::of(1..4_u64),
        length in prop_oneof![0..4_000_usize, Just(100_000)],
        is_slow in any::<bool>(),
        backlog in prop_oneof![0..4_u32, Just(128)],
        never_accept in prop::bool::weighted(0.05),
        listen_after in prop_oneof![Just(Duration::ZERO), millis(500)],
        never_read in any::<bool>(),
        seed in any::<u64>(),
    ) -> Servers {
        let first = NonZeroU64::new(failures).map(|failures| (failures, Pace::failure()));
        let plan = Plan::script(seed, first, pace).cycle(cycle.and_then(NonZeroU64::new));
        Servers {
            number: NonZeroU32::new(number).expect("not 0"),
            kind: if is_slow { Kind::Slow } else { Kind::Fast },
            plan,
            poem: vec![b'.'; length].into(),
            backlog,
            never_accept,
            listen_after,
            never_read,
        }
    }
}

prop_compose! {
    fn limits(at_once: usize)(
        connect_timeout in option::of(millis(2_000)),
        // Of what is silent for ever, a run ends all the same.
        idle_timeout in option::of(millis(1_000)),
        timeout in option::of(millis(3_000)),
        max_size in option::weighted(0.1, 0..4_000_u64),
        retries in 0..4_u32,
    ) -> FetchLimits {
        FetchLimits {
            connect_timeout,
            idle_timeout,
            timeout,
            max_size,
            retries,
            retry_after_max: Duration::ZERO,
            concurrency: Concurrency::Together(NonZeroUsize::new(at_once).expect("not 0")),
        }
    }
}

/// So many times as much for each.
fn times(costs: &Costs, factor: u64) -> Costs {
    let mut all = serde_json::to_value(costs).expect("JSON");
    for cost in all.as_object_mut().expect("an object").values_mut() {
        *cost = (cost.as_u64().expect("a number") * factor).into();
    }
    serde_json::from_value(all).expect("costs")
}

prop_compose! {
    fn machines()(
        processors in 1..4_u32,
        threads in 1..8_u32,
        // As they are, none, and as on a machine on which everything takes long.
        factor in prop_oneof![Just(1), Just(0), Just(300)],
    ) -> Machine {
        let mut costs = Costs::default();
        if factor != 1 {
            costs = times(&costs, factor);
        }
        let number = |number| NonZeroU32::new(number).expect("not 0");
        Machine { costs, processors: number(processors), threads: number(threads), stack: 1 << 21 }
    }
}

fn links() -> impl Strategy<Value = Link> {
    let loss = prop_oneof![Just(0.0), 0.0..0.5];
    (millis(300), millis(100), loss).prop_map(|(rtt, jitter, loss)| Link { rtt, jitter, loss })
}

fn orders() -> impl Strategy<Value = Option<Order>> {
    let of_request = Order::Request { retries: true, by_line: false };
    prop::sample::select(vec![None, Some(Order::Completion), Some(of_request)])
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1..4_u32).prop_flat_map(|servers| (Just(servers), servers..10, 1..10_usize));
    sizes.prop_flat_map(|(number, poems, at_once)| {
        let models = prop::sample::select(Model::ALL.to_vec());
        let parts = (servers(number), limits(at_once), machines(), links(), orders());
        (models, parts, any::<u64>()).prop_map(move |(model, (servers, limits, machine, link, order), seed)| {
            let source = |poem| format!("10.0.0.{}:1", server_of(poem, number, poems) + 1).parse().expect("a source");
            let may_be_short = ends_well(&servers.plan);
            let scenario = Scenario {
                servers,
                link,
                sources: (0..poems).map(source).collect::<Vec<Source>>().into(),
                limits,
                order,
                machine,
                seed,
                with_events: true,
            };
            Case { model, scenario, at_once, may_be_short }
        })
    })
}

/// Whether a plan ends streams with FIN before their end.
fn ends_well(plan: &Plan) -> bool {
    format!("{plan:?}").contains("how: Fin")
}

/// That these moments, as far as they were reached, follow each other.
fn in_order(moments: &[Option<Micros>]) -> Result<(), TestCaseError> {
    let reached: Vec<Micros> = moments.iter().copied().flatten().collect();
    prop_assert!(reached.is_sorted(), "{moments:?}");
    Ok(())
}

fn check_attempt(attempt: &Attempt, length: u64) -> Result<(), TestCaseError> {
    in_order(&[Some(attempt.start_us), attempt.connected_us, attempt.first_byte_us, Some(attempt.end_us)])?;
    prop_assert!(attempt.bytes <= length && attempt.status != Status::Ok && attempt.error.is_some());
    prop_assert_eq!(attempt.events.entries().iter().map(|(_, bytes)| bytes).sum::<u64>(), attempt.bytes);
    Ok(())
}

fn check_poem(task: &TaskReport, case: &Case) -> Result<(), TestCaseError> {
    let (length, limits) = (case.scenario.servers.poem.bytes().len() as u64, &case.scenario.limits);
    let reads = task.events.entries();
    let (first, last) = (reads.first().map(|(at, _)| *at), reads.last().map(|(at, _)| *at));
    prop_assert_eq!(first, task.first_byte_us);
    let begun = [task.start_us, task.attempt_us, task.connected_us, first];
    in_order(&[&begun[..], &[last, task.whole_us, task.end_us]].concat())?;
    prop_assert!(reads.is_sorted_by_key(|(at, _)| *at));
    prop_assert_eq!(reads.iter().map(|(_, bytes)| bytes).sum::<u64>(), task.bytes);
    prop_assert!(task.bytes <= length);
    let is_ok = task.status == Status::Ok;
    prop_assert!(!is_ok || task.bytes == length || case.may_be_short);
    prop_assert_eq!(is_ok, task.error.is_none());
    // Of a stream that has the beginning of another poem already, one that is whole may be no use.
    prop_assert!(task.whole_us.is_none() || is_ok || case.scenario.order.is_some());
    prop_assert!(task.whole_us.is_some() || !is_ok);
    prop_assert!(!is_ok || limits.max_size.is_none_or(|most| task.bytes <= most));
    prop_assert!(task.attempts <= limits.retries + 1);
    let earlier = task.earlier.known();
    earlier.iter().try_for_each(|attempt| check_attempt(attempt, length))?;
    prop_assert!(earlier.iter().map(|attempt| attempt.attempt).eq(1..=earlier.len().try_into().expect("few")));
    let ends = earlier.iter().flat_map(|attempt| [Some(attempt.start_us), Some(attempt.end_us)]);
    in_order(&[task.start_us].into_iter().chain(ends).chain([task.attempt_us, task.end_us]).collect::<Vec<_>>())
}

/// What the calls that are counted take at least, in nanoseconds.
fn least_cpu(report: &Report, case: &Case) -> u64 {
    let costs = &case.scenario.machine.costs;
    let begun = report.tasks.iter().filter(|task| task.start_us.is_some()).count() as u64;
    let attempts: u64 = report.tasks.iter().map(|task| u64::from(task.attempts)).sum();
    let each = match case.model {
        Model::Async => costs.task,
        Model::Threads => costs.thread,
        Model::Blocking | Model::Select => 0,
    };
    let calls = [(1, costs.process), (begun, costs.poem + each), (attempts, costs.connect)];
    // A read that its limit ended is not paid for.
    let reads: u64 = report.tasks.iter().map(|task| task.events.entries().len() as u64).sum();
    calls.into_iter().chain([(reads, costs.read + costs.step)]).map(|(number, cost)| number * cost).sum()
}

fn check(report: &Report, case: &Case) -> Result<(), TestCaseError> {
    report.tasks.iter().try_for_each(|task| check_poem(task, case))?;
    let ok = report.tasks.iter().filter(|task| task.status == Status::Ok).count();
    prop_assert_eq!((report.ok, report.failed), (ok, report.tasks.len() - ok));
    prop_assert_eq!(Some(report.elapsed_us), report.tasks.iter().filter_map(|task| task.end_us).max());
    prop_assert!(report.bound_us.is_none_or(|bound| bound <= report.elapsed_us));
    let (simulated, peak) = (report.simulated.expect("it is"), report.peak.expect("known"));
    let (costs, processors) = (&case.scenario.machine.costs, u64::from(case.scenario.machine.processors.get()));
    let cpu = 1_000 * (simulated.cpu_us + 1);
    prop_assert!(cpu >= least_cpu(report, case), "{cpu} {}", least_cpu(report, case));
    // One thread has one processor at a time, and all together no more than there are.
    let used = if case.model == Model::Threads { processors } else { 1 };
    prop_assert!(cpu <= costs.process + used * 1_000 * (report.elapsed_us + 2) + slack(costs), "{cpu} {report:?}");
    let at_once = if case.model == Model::Blocking { 1 } else { case.at_once };
    prop_assert!(most_at_once(report) <= at_once && simulated.at_once <= at_once as u64);
    prop_assert!(most_at_once(report) as u64 <= simulated.at_once);
    let threads = if case.model == Model::Threads { u64::from(case.scenario.machine.threads.get()) } else { 0 };
    prop_assert!(peak.threads <= 1 + threads.min(at_once as u64));
    prop_assert!(report.calls.wakeups >= report.tasks.iter().filter(|task| task.connected_us.is_some()).count() as u64);
    Ok(())
}

/// What a thread does yet when the last poem is settled: a round with ten poems.
fn slack(costs: &Costs) -> u64 {
    20 * (costs.poll + costs.ready + costs.step + costs.read + costs.poem + costs.idle)
}

proptest! {
    #[test]
    fn a_report_makes_sense_and_is_the_same_again(case in cases()) {
        let report = run(case.model, &case.scenario, None);
        check(&report, &case)?;
        prop_assert_eq!(run(case.model, &case.scenario, None).to_json(), report.to_json());
    }

    #[test]
    fn what_is_told_is_told_in_order_and_changes_nothing(case in cases()) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&told);
        let narrator = Arc::new(Narrator::new(move |at, text| lock(&kept).push((at, text.to_owned()))));
        let report = run(case.model, &case.scenario, Some(&narrator));
        let told = lock(&told);
        prop_assert!(told.is_sorted_by_key(|(at, _)| *at), "{told:#?}");
        prop_assert_eq!(told.iter().filter(|(_, text)| text.contains(": is whole")).count(), report.ok);
        prop_assert_eq!(run(case.model, &case.scenario, None).to_json(), report.to_json());
    }
}
