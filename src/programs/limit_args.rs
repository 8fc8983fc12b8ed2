//! Arguments that the clients and their race share: within which limits poems are fetched, and through which transform.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;

use crate::address::Address;
use crate::cli::values::{self, Known, Limit};
use crate::client::{Concurrency, FetchLimits, Source, Via};
use crate::transforms;
use crate::units::count;

/// The limits of each fetch.
#[derive(Debug, Clone, Args)]
pub(super) struct LimitArgs {
    /// Fetch at most N poems at once [default: 50 over HTTP, and all others]
    #[arg(short = 'j', visible_short_alias = 'm', long, value_name = "N")]
    #[arg(value_parser = values::count::<NonZeroUsize>(), allow_negative_numbers = true)]
    pub(super) max_concurrency: Option<NonZeroUsize>,

    /// Give up an address that does not accept the connection for so long; 0: never
    ///
    /// To look up a name counts too, but in the blocking and the threads client nothing can cut a look-up short. An
    /// address of a name that does not answer within 250ms is joined by the next one, and who answers first counts; the
    /// blocking and the threads client can wait for one at a time only, so there each costs its limit.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    pub(super) connect_timeout: Limit,

    /// Give up a poem of which nothing comes for so long, the first byte included; 0: never
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    pub(super) idle_timeout: Limit,

    /// Give up a poem that is not complete after so long, all attempts included; 0: never
    #[arg(long, value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = values::limit, allow_hyphen_values = true)]
    pub(super) timeout: Limit,

    /// Try again up to N times if a poem fails, after pauses that double
    ///
    /// If a name has several addresses, with the one after the one that failed. Of what an HTTP server says, 408, 429, 500,
    /// 502, 503, 504 and a reply that breaks off are tried again.
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = values::whole::<u32>(0, u32::MAX.into()), allow_negative_numbers = true)]
    pub(super) retries: u32,
}

/// A transform for every poem.
#[derive(Debug, Clone, Args)]
pub(super) struct TransformArgs {
    /// Send each poem through this transform; if that fails, keep it as it was
    ///
    /// So is a poem of more than 64 MiB: all of it would have to be in memory.
    #[arg(long, value_name = "NAME", requires = "via")]
    #[arg(value_parser = Known { known: transforms, parse: values::transform }, hide_possible_values = true)]
    transform: Option<String>,

    /// The transform server
    #[arg(long, value_name = "ADDR", requires = "transform")]
    via: Option<Address>,
}

/// The transforms that a server of the suite has.
fn transforms() -> Vec<&'static str> {
    transforms::ALL.iter().map(|transform| transform.name).collect()
}

/// Descriptors that are not for poems: the standard streams, a runtime's own, a library's.
const OTHER_FILES: u64 = 32;

impl LimitArgs {
    /// The limits of each fetch of a poem, of any size.
    pub(super) fn of_each(&self, concurrency: Concurrency) -> FetchLimits {
        FetchLimits {
            connect_timeout: self.connect_timeout.0,
            idle_timeout: self.idle_timeout.0,
            timeout: self.timeout.0,
            max_size: None,
            retries: self.retries,
            retry_after_max: Duration::ZERO,
            concurrency,
        }
    }

    /// How many poems may be under way at once, each with so many open files, of which there may be so many; and a warning
    /// if that is fewer than are wanted.
    pub(super) fn concurrency(
        &self,
        sources: &[Source],
        open_files: u64,
        files_per_poem: u64,
    ) -> (Concurrency, Option<String>) {
        let possible = open_files.saturating_sub(OTHER_FILES) / files_per_poem;
        let possible = NonZeroUsize::new(usize::try_from(possible).unwrap_or(usize::MAX)).unwrap_or(NonZeroUsize::MIN);
        let wanted = Concurrency::wanted(self.max_concurrency);
        let warning = (possible.get() < wanted.of(sources)).then(|| {
            let poems = count(possible.get() as u64, "poem");
            format!("At most {poems} at once: the limit of open files is {open_files}")
        });
        (wanted.at_most(possible, sources), warning)
    }

    /// The arguments by which a client is told the same.
    pub(super) fn words(&self) -> Vec<String> {
        let limit = |limit: Limit| humantime::format_duration(limit.0.unwrap_or(Duration::ZERO)).to_string();
        let mut words = vec![
            format!("--connect-timeout={}", limit(self.connect_timeout)),
            format!("--idle-timeout={}", limit(self.idle_timeout)),
            format!("--timeout={}", limit(self.timeout)),
            format!("--retries={}", self.retries),
        ];
        words.extend(self.max_concurrency.map(|most| format!("--max-concurrency={most}")));
        words
    }
}

impl TransformArgs {
    /// The transform of each poem, and its server.
    pub(super) fn via(&self) -> Option<Via> {
        let (transform, address) = (self.transform.clone()?, self.via.clone()?);
        Some(Via { transform, address })
    }

    /// The arguments by which a client is told the same.
    pub(super) fn words(&self) -> Vec<String> {
        let words = self.via().map(|via| [format!("--transform={}", via.transform), format!("--via={}", via.address)]);
        words.into_iter().flatten().collect()
    }
}
