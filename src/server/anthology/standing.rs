//! What a source is to one who looks: fresh, aged, come, failed, or late.

use std::sync::Arc;

use super::edition::Edition;
use super::record::Record;
use super::trouble::Trouble;

/// What a source is to somebody who asks.
#[derive(Debug, Clone)]
pub(super) enum Standing {
    /// It was there, and is as good as new.
    Fresh(Arc<Edition>),
    /// It was there, and is fetched again, or was to be and could not.
    Aged(Arc<Edition>, Option<Arc<Trouble>>),
    /// It has come.
    Come(Arc<Edition>),
    /// It does not come.
    Failed(Arc<Trouble>, Box<Record>),
    /// Nobody waits for it any more, but it may come.
    Late(Box<Record>),
}

impl Standing {
    /// What is shown of the source, if something is.
    pub(super) fn edition(&self) -> Option<&Arc<Edition>> {
        match self {
            Self::Fresh(edition) | Self::Aged(edition, _) | Self::Come(edition) => Some(edition),
            Self::Failed(..) | Self::Late(_) => None,
        }
    }

    /// Whether something of the source is shown.
    pub(super) fn is_shown(&self) -> bool {
        self.edition().is_some()
    }

    /// Why it is not there, or not as good as new.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Failed(trouble, _) | Self::Aged(_, Some(trouble)) => Some(trouble),
            Self::Fresh(_) | Self::Aged(_, None) | Self::Come(_) | Self::Late(_) => None,
        }
    }

    /// Its name, for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Fresh(_) => "fresh",
            Self::Aged(..) => "aged",
            Self::Come(_) => "come",
            Self::Failed(..) => "failed",
            Self::Late(_) => "late",
        }
    }
}
