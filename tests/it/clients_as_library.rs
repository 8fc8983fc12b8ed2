//! The clients as a library: what no program can provoke.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use poetry_suite::client::{Concurrency, Event, FetchLimits, Job, Model, Observer, ReportBuilder, Sink, Task};
use poetry_suite::report::Status;

use crate::harness::Server;

/// An observer with a bug, as any code could have one.
struct Clumsy {
    task: usize,
}

impl Observer for Clumsy {
    fn observe(&self, task: Task<'_>, _: Duration, event: &Event<'_>) {
        assert!(task.number != self.task || !matches!(event, Event::Received(_)), "a bug in task {}", self.task);
    }
}

#[test]
fn a_bug_in_one_task_costs_one_poem() {
    let server = Server::poem("a poem\n");
    for model in Model::ALL {
        let addresses = vec![server.port().parse().expect("a port"); 4];
        let clock = Instant::now();
        let concurrency = Concurrency::Together(NonZeroUsize::new(2).expect("not zero"));
        let builder = Arc::new(ReportBuilder::new(model, &addresses[..], concurrency, clock, true));
        let limits = FetchLimits {
            max_size: None,
            connect_timeout: None,
            idle_timeout: None,
            timeout: None,
            retries: 3,
            retry_after_max: Duration::ZERO,
            concurrency,
        };
        let observers: Vec<Arc<dyn Observer>> = vec![builder.clone(), Arc::new(Clumsy { task: 2 })];
        let job = Arc::new(Job::new(addresses, limits, Sink::discard(), observers, clock, 0));
        model.run(&job).expect("the model works");
        let report = builder.report(job.calls());
        let statuses: Vec<Status> = report.tasks.iter().map(|task| task.status).collect();
        assert_eq!(statuses, [Status::Ok, Status::Error, Status::Ok, Status::Ok], "{model}");
        let error = report.tasks[1].error.as_deref().expect("a reason");
        assert!(error.starts_with("internal error"), "{error}");
        assert_eq!(report.tasks[1].attempts, 1, "{model}: a bug is not retried");
    }
}
