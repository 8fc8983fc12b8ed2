//! The servers of a demonstration: three slow ones, for as long as the race goes on.

use std::net::TcpListener;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::cli::Error;
use crate::client::Target;
use crate::net::Stoppable;
use crate::pace::{Pace, Plan, Tempo};
use crate::poem::NamedPoem;
use crate::server::fault_plan::FaultPlan;
use crate::server::slow::{SlowServer, Stopper};

/// The poems, and how many bytes of each are a piece.
const POEMS: [(&str, u64); 3] = [("ecstasy", 30), ("fascination", 10), ("science", 10)];

/// The time from one piece to the next.
const DELAY: Duration = Duration::from_millis(20);

/// Three slow servers on this machine, in threads of this process. They end with it.
pub(super) struct Demo {
    servers: Vec<(Stopper, JoinHandle<()>)>,
    targets: Vec<Target>,
}

impl Demo {
    /// Starts the servers, on any free ports.
    ///
    /// # Errors
    /// The system gives no port or no thread.
    pub(super) fn start() -> Result<Self, Error> {
        let mut demo = Self { servers: Vec::new(), targets: Vec::new() };
        for (name, num_bytes) in POEMS {
            let listener = TcpListener::bind("127.0.0.1:0");
            let listener = listener.map_err(|error| Error::cannot("listen on", "127.0.0.1", &error))?;
            let port = listener.local_addr().map_err(|error| Error::cannot("find", "the port", &error))?.port();
            demo.targets.push(format!("{name}={port}").parse().map_err(|error| Error::failure(format!("{error}")))?);
            let pace = Pace {
                num_bytes: num_bytes.try_into().unwrap_or(std::num::NonZeroU64::MIN),
                tempo: Tempo::Delay(DELAY),
                ..Pace::default()
            };
            let server = SlowServer {
                poem: NamedPoem::find(Path::new(name)),
                fault_plan: FaultPlan::new(Plan::uniform(0, pace), None),
                write_timeout: None,
                clients: None,
                listen_later: None,
                http: None,
                never_read: false,
            };
            let stopper = Stopper::new(listener);
            let its = stopper.clone();
            let serve = move || {
                // It listens already, and nothing else fails.
                let _ = server.run(&its);
            };
            let thread = thread::Builder::new().name(name.to_owned()).spawn(serve);
            demo.servers.push((stopper, thread.map_err(|error| Error::no_thread(&error))?));
        }
        Ok(demo)
    }

    /// The servers, with the names of their poems.
    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        for (stopper, _) in &self.servers {
            stopper.abort();
        }
        for (_, thread) in self.servers.drain(..) {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}
