//! Who is told what happens on a connection: a recording, whoever watches, or both.

use std::io;
use std::sync::Arc;

use super::behaviour::Behaviour;
use super::record::Record;
use crate::net::dial::DialError;
use crate::net::relay::{RelayEnd, Witness};
use crate::pace::Ending;
use crate::report::Status;
use crate::report::seen::Sight;
use crate::server::watcher::{FromClient, Watched};

/// Those who are told of one connection.
pub(super) struct Notes {
    record: Option<Record>,
    watched: Option<Arc<Watched>>,
}

impl Notes {
    /// `None`: nobody wants to know.
    pub(super) fn new(record: Option<Record>, watched: Option<Watched>) -> Option<Arc<Self>> {
        (record.is_some() || watched.is_some()).then(|| Arc::new(Self { record, watched: watched.map(Arc::new) }))
    }

    /// Who is told of the direction from the client.
    pub(super) fn of_client(&self) -> Option<Arc<dyn Witness>> {
        self.watched.as_ref().map(|watched| Arc::new(FromClient(Arc::clone(watched))) as Arc<_>)
    }

    /// What was drawn for it, if that is unusual.
    pub(super) fn drawn(&self, behaviour: Behaviour, word: &'static str) {
        self.note(Sight::Called(word.to_owned()));
        // All that there is to connect to is the proxy.
        if matches!(behaviour, Behaviour::Hang | Behaviour::Blackout | Behaviour::Error) {
            self.note(Sight::Connected);
        }
    }

    /// The connection to upstream stands, or there is none.
    pub(super) fn dialed<T>(&self, dialed: Result<&T, &DialError>) {
        match (dialed, &self.watched) {
            (Ok(_), _) => self.note(Sight::Connected),
            (Err(error), Some(watched)) => watched.is_unreached(error),
            (Err(_), None) => {}
        }
    }

    /// What has come of its relay.
    pub(super) fn relayed(&self, end: &RelayEnd) {
        if let Some(watched) = &self.watched {
            watched.has_ended(end);
        }
    }

    /// How the server ends it.
    pub(super) fn end(&self, ending: &io::Result<Ending>) {
        if let Some(record) = &self.record {
            record.end(ending);
        }
        // What is known better was said before.
        self.note(match ending {
            Ok(Ending::Fin) => Sight::ServerEnded,
            Ok(Ending::Rst) => Sight::ServerBroke(Status::Reset, "reset by the proxy".to_owned()),
            Ok(Ending::Hang) => return,
            Err(_) => Sight::ClientBroke,
        });
    }

    fn note(&self, sight: Sight) {
        if let Some(watched) = &self.watched {
            watched.note(sight);
        }
    }
}

/// Of the direction to the client.
impl Witness for Notes {
    fn sent(&self, bytes: u64) {
        self.record.iter().for_each(|record| record.sent(bytes));
        self.watched.iter().for_each(|watched| watched.sent(bytes));
    }

    fn stalled(&self) {
        self.watched.iter().for_each(|watched| watched.stalled());
    }

    fn ended(&self) {
        self.record.iter().for_each(Witness::ended);
        self.watched.iter().for_each(|watched| watched.ended());
    }
}
