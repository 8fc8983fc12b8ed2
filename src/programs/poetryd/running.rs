//! A service that serves, as signals, pages and the watchdog see it.

use std::sync::Arc;

use tracing::Span;

use crate::net::counts::Counts;
use crate::net::pulse::Pulse;
use crate::programs::service::Service;

/// A service that serves, as others see it.
pub(super) struct Running {
    pub(super) program: &'static str,
    pub(super) address: String,
    pub(super) service: Arc<dyn Service>,
    pub(super) counts: Arc<Counts>,
    pub(super) pulse: Pulse,
    /// What it logs is in this.
    pub(super) span: Span,
}
