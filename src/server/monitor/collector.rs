//! The collector: a SUB that waits for servers to connect, as the book has it, and hears all that they publish.

use std::io;
use std::time::{Duration, Instant};

use tokio_util::bytes::{Buf, BytesMut};
use tracing::{debug, info, warn};

use super::Shared;
use super::sample::{Rejected, Sample};
use crate::net::{Connection, Peer};
use crate::pace::Ending;
use crate::proto::zmtp::{Decoder, Error, Event, GREETING, Role, subscribe};
use crate::units::count;

/// The time for a handshake.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// How often is told that a peer sends what is no sample.
const TELL: Duration = Duration::from_secs(60);

/// Hears a peer, until it leaves or the server stops.
pub(super) async fn collect(shared: &Shared, max_message: usize, connection: &mut Connection) -> io::Result<Ending> {
    let peer = connection.peer();
    // At once: the peer may wait for it.
    connection.send_all(&GREETING).await?;
    let (mut decoder, mut arrived) = (Decoder::new(Role::Sub, max_message), BytesMut::new());
    let (mut is_ready, until) = (false, Instant::now() + HELLO_TIME);
    let mut complaints = Complaints::new(peer);
    loop {
        let Heard { answers, samples, has_shaken_hands, taken, verdict } = hear(&mut decoder, &arrived, &mut |why| {
            shared.reject(why);
            complaints.note(why);
        });
        arrived.advance(taken);
        if arrived.is_empty() {
            arrived = BytesMut::new();
        }
        if has_shaken_hands {
            debug!(%peer, "Somebody at {peer} reports!");
            is_ready = true;
        }
        if !samples.is_empty()
            && let Some(why) = shared.take(&samples, shared.clock.now())
        {
            complaints.note(why);
        }
        if let Err(error) = verdict {
            warn!(%peer, "Closed {peer}: {error}");
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !answers.is_empty() {
            connection.send_all(&answers).await?;
        }
        let limit = (!is_ready).then(|| until.saturating_duration_since(Instant::now()));
        let read = tokio::select! {
            biased;
            read = connection.read_some(&mut arrived, limit) => read,
            () = connection.closing() => return Ok(Ending::Fin),
        };
        match read {
            Ok(0) => {
                if let Err(error) = decoder.finish(&arrived) {
                    info!(%peer, "{peer} has left: {error}");
                }
                return Ok(Ending::Fin);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let limit = humantime::format_duration(HELLO_TIME);
                warn!(%peer, "Closed {peer}: it has not shaken hands within {limit}");
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What has arrived.
struct Heard {
    /// To be sent.
    answers: Vec<u8>,
    samples: Vec<Sample>,
    has_shaken_hands: bool,
    /// Bytes that are done with.
    taken: usize,
    verdict: Result<(), Error>,
}

fn hear(decoder: &mut Decoder, arrived: &[u8], reject: &mut impl FnMut(Rejected)) -> Heard {
    let (mut answers, mut samples, mut has_shaken_hands) = (Vec::new(), Vec::new(), false);
    let mut rest = arrived;
    let verdict = loop {
        match decoder.decode(&mut rest) {
            Ok(None) => break Ok(()),
            Ok(Some(Event::Answer(bytes))) => answers.extend_from_slice(&bytes),
            Ok(Some(Event::Ready)) => {
                has_shaken_hands = true;
                answers.extend_from_slice(&subscribe(b""));
            }
            Ok(Some(Event::Message(message))) => match Sample::parse(message.last()) {
                Ok(sample) => samples.push(sample),
                Err(why) => reject(why),
            },
            // Nobody asks a SUB for anything.
            Ok(Some(Event::Subscribed(_) | Event::Cancelled(_))) => {}
            Err(error) => break Err(error),
        }
    };
    Heard { answers, samples, has_shaken_hands, taken: arrived.len() - rest.len(), verdict }
}

/// What is wrong with the messages of a peer, told now and then.
struct Complaints {
    peer: Peer,
    told: Option<Instant>,
    since: u64,
}

impl Complaints {
    fn new(peer: Peer) -> Self {
        Self { peer, told: None, since: 0 }
    }

    fn note(&mut self, why: Rejected) {
        self.since += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            let (peer, messages) = (self.peer, count(self.since, "message"));
            warn!(%peer, "Ignored {messages} of {peer}: {why}");
            (self.told, self.since) = (Some(Instant::now()), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::zmtp::{add_message, ready};

    /// What a sender says with two samples, one of them with a topic before, and something that is none between.
    fn said() -> Vec<u8> {
        let mut bytes = [&GREETING[..], &ready(Role::Pub)].concat();
        let sample = |color: &str| format!(r#"{{"color":"{color}","timestamp":"2026-11-27T21:50:22Z","cpu":1}}"#);
        add_message(&mut bytes, &[sample("red").as_bytes()]);
        add_message(&mut bytes, &[b""]);
        add_message(&mut bytes, &[b"topic", sample("blue").as_bytes()]);
        bytes
    }

    proptest! {
        #[test]
        fn it_hears_the_same_however_it_is_cut(cuts in prop::collection::vec(0..said().len(), 0..9)) {
            let (all, mut cuts) = (said(), cuts);
            cuts.sort_unstable();
            let mut decoder = Decoder::new(Role::Sub, 1000);
            let (mut arrived, mut colors, mut rejected, mut answers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let mut from = 0;
            for to in cuts.into_iter().chain([all.len()]) {
                arrived.extend_from_slice(&all[from..to]);
                from = to;
                let heard = hear(&mut decoder, &arrived, &mut |why| rejected.push(why));
                prop_assert_eq!(heard.verdict, Ok(()));
                arrived.drain(..heard.taken);
                colors.extend(heard.samples.into_iter().map(|sample| sample.color));
                answers.extend(heard.answers);
            }
            prop_assert_eq!(colors, ["red", "blue"]);
            prop_assert_eq!(rejected, [Rejected::Json]);
            prop_assert_eq!(answers, [ready(Role::Sub), subscribe(b"")].concat());
            prop_assert!(arrived.is_empty());
        }
    }
}
