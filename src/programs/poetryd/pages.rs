//! The pages about the services of a daemon: metrics, and health.

use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout_at};

use super::running::Running;
use crate::metrics::{CONTENT_TYPE, Metric, Page};
use crate::net::pulse::Question;
use crate::net::{Stop, Stoppable};
use crate::programs::service::add_metrics;
use crate::server::page::{Made, PageServer};

/// The server of `/metrics` and `/healthz`, which is unavailable once `stop` is asked for.
///
/// It may be called by these names.
pub(super) fn pages(services: &Arc<Vec<Running>>, stop: &Stop, names: Vec<String>) -> PageServer {
    let metrics = metrics_page(Arc::clone(services));
    let health = health_page(Arc::clone(services), stop.clone());
    PageServer::new("poetryd", names)
        .with("/metrics", "what every service has done, for monitoring systems", CONTENT_TYPE, metrics)
        .with("/healthz", "whether every service does its work", "text/plain; charset=utf-8", health)
}

/// For an answer to the question whether a service is alive.
const HEALTH: Duration = Duration::from_secs(2);

/// Says whether every service does its work.
fn health_page(
    services: Arc<Vec<Running>>,
    stop: Stop,
) -> impl Fn() -> Pin<Box<dyn Future<Output = Made> + Send>> + Send + Sync + 'static {
    move || {
        let (services, stop) = (Arc::clone(&services), stop.clone());
        Box::pin(async move {
            if stop.is_closing() {
                return Made::Unavailable("stopping\n".to_owned());
            }
            let until = Instant::now() + HEALTH;
            // All are asked before one is waited for.
            let asked: Vec<Question> = services.iter().map(|service| service.pulse.ask()).collect();
            let mut silent = Vec::new();
            for (service, question) in services.iter().zip(asked) {
                if timeout_at(until, service.pulse.answered(question)).await.is_err() {
                    silent.push(format!("{} on {}", service.program, service.address));
                }
            }
            match silent.len() {
                0 => Made::Well("ok\n".to_owned()),
                1 => Made::Unavailable(format!("{} does not answer\n", silent[0])),
                _ => Made::Unavailable(format!("{} do not answer\n", silent.join(", "))),
            }
        })
    }
}

/// Makes the page of metrics.
fn metrics_page(services: Arc<Vec<Running>>) -> impl Fn() -> future::Ready<Made> + Send + Sync + 'static {
    const BUILD: Metric = Metric::gauge("poetry_build_info", "Always 1; the label is the version.");
    const STARTED: Metric =
        Metric::gauge("poetry_start_time_seconds", "When the process was started, in seconds since 1970.");
    const SCRAPES: Metric = Metric::counter("poetry_scrapes_total", "Times this page was made.");
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let scrapes = AtomicU64::new(0);
    move || {
        let mut page = Page::default();
        page.add(BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.add(STARTED, &[], started);
        page.add(SCRAPES, &[], scrapes.fetch_add(1, Relaxed) + 1);
        for Running { program, address, service, counts, .. } in services.iter() {
            add_metrics(&mut page, &[("service", program), ("address", address)], counts, service.as_ref());
        }
        future::ready(Made::Well(page.text()))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Mutex, mpsc};
    use std::thread;

    use tokio::runtime::Builder;
    use tracing::Span;

    use super::*;
    use crate::net::descriptors::Descriptors;
    use crate::net::pulse::Pulse;
    use crate::net::{self, Connection, Door, FastPath, Progress, ServerLimits, Unregistered};
    use crate::pace::Ending;
    use crate::programs::service::{Nobody, prepare};
    use crate::sync::lock;

    /// Holds up its worker with each connection, until the channel is dropped.
    struct Stuck {
        begin: Mutex<mpsc::Sender<()>>,
        end: Mutex<mpsc::Receiver<()>>,
    }

    impl FastPath for Stuck {
        const EOF_ENDS_MESSAGE: bool = true;

        type State = ();

        fn try_serve(&self, _: &Unregistered<'_>) -> io::Result<Progress<()>> {
            lock(&self.begin).send(()).expect("heard");
            let _ = lock(&self.end).recv();
            Ok(Progress::End(Ending::Fin))
        }

        async fn finish(&self, _: &mut Connection, (): ()) -> io::Result<Ending> {
            Ok(Ending::Fin)
        }
    }

    #[test]
    fn a_service_whose_worker_does_not_get_round_to_it_is_named() {
        let (stop, nobody) = (Stop::default(), Stop::default());
        let (begin, begun) = mpsc::channel();
        let (release, end) = mpsc::channel();
        let stuck = Stuck { begin: Mutex::new(begin), end: Mutex::new(end) };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let door = Door { name: "only", listeners: vec![listener], listen_later: None };
        let limits = ServerLimits {
            max_clients: 1,
            descriptors: Descriptors::default(),
            write_timeout: None,
            grace: Duration::ZERO,
        };
        let run = prepare(vec![door], &Arc::new(stuck), &limits).expect("prepared");
        let running = |address: &str, pulse: &Pulse| Running {
            program: "fastpoetry",
            address: address.to_owned(),
            service: Arc::new(Nobody),
            counts: Arc::default(),
            pulse: pulse.clone(),
            span: Span::none(),
        };
        let services = vec![running("one", nobody.pulse()), running("other", stop.pulse())];
        let page = health_page(Arc::new(services), stop.clone());
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        thread::scope(|scope| {
            scope.spawn(|| run.serve(&stop).expect("served"));
            scope.spawn(|| net::never_accept(Vec::new()).expect("prepared").run(&nobody));
            assert_eq!(runtime.block_on(page()), Made::Well("ok\n".to_owned()));
            let _client = TcpStream::connect(address).expect("a server");
            begun.recv().expect("stuck");
            let named = Made::Unavailable("fastpoetry on other does not answer\n".to_owned());
            assert_eq!(runtime.block_on(page()), named);
            drop(release);
            assert_eq!(runtime.block_on(page()), Made::Well("ok\n".to_owned()));
            nobody.close();
            stop.close();
            assert_eq!(runtime.block_on(page()), Made::Unavailable("stopping\n".to_owned()));
        });
    }
}
