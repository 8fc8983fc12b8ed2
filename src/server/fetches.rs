//! The fetches of a proxy: tasks on a thread of their own, because each outlasts the worker of the client that began it.

use std::future::Future;
use std::io;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Span;

use crate::sync::lock;

/// At the end, for fetches that nobody wants any more to say that they are canceled.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A runtime for fetches, and its thread once it is started.
#[derive(Debug)]
pub(super) struct Fetches {
    under_way: TaskTracker,
    handle: Handle,
    /// Until it is started.
    runtime: Mutex<Option<Runtime>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Fetches {
    /// None yet, and no thread.
    ///
    /// # Errors
    /// The system gives no descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        Ok(Self {
            under_way: TaskTracker::new(),
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            thread: Mutex::new(None),
            stop: stop.clone(),
            _stop: stop.drop_guard(),
        })
    }

    /// Starts the thread, once.
    ///
    /// # Errors
    /// The system gives none.
    pub(super) fn start(&self) -> io::Result<()> {
        let Some(runtime) = lock(&self.runtime).take() else { return Ok(()) };
        let (stopped, under_way, span) = (self.stop.clone(), self.under_way.clone(), Span::current());
        let body = move || {
            let _in_span = span.enter();
            runtime.block_on(async {
                stopped.cancelled().await;
                under_way.close();
                let _ = timeout(LAST_WORDS, under_way.wait()).await;
            });
            // A look-up that does not answer must not hold up the end.
            runtime.shutdown_background();
        };
        *lock(&self.thread) = Some(thread::Builder::new().name("upstream".to_owned()).spawn(body)?);
        Ok(())
    }

    /// Begins a fetch.
    pub(super) fn spawn(&self, fetch: impl Future<Output = ()> + Send + 'static) {
        self.under_way.spawn_on(fetch, &self.handle);
    }

    /// Ends all of them, once nobody is served any more. Those whose last client was reset by that say so before.
    pub(super) fn end(&self) {
        self.stop.cancel();
        if let Some(thread) = lock(&self.thread).take() {
            // It panicked, if this fails: the panic hook has said so.
            let _ = thread.join();
        }
    }
}
