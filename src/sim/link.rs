//! The link between a client and a server: latency, jitter, and loss as TCP makes it look.

use std::time::Duration;

use super::queue::Nanos;
use crate::pace::{Draws, late};

/// The link of every connection. Its bandwidth has no limit, and neither has the room for what is not read yet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Link {
    /// The time from one end to the other and back.
    pub rtt: Duration,
    /// The amplitude of the jitter of each way: uniformly distributed, and never so that something is early.
    pub jitter: Duration,
    /// The probability that a segment is lost, from 0 to 1. TCP sends it again: what an application sees is that it comes
    /// late, and all that follows with it.
    pub loss: f64,
}

/// What Linux adds to the round-trip time for the retransmission timeout (RTO) of a connection whose round trips vary
/// little: `TCP_RTO_MIN`. After each further loss of the same segment it is twice as long (RFC 6298, section 5.5).
const LEAST_RTO: Duration = Duration::from_millis(200);

/// The longest RTO: Linux's `TCP_RTO_MAX`.
const LONGEST_RTO: Duration = Duration::from_secs(120);

/// A segment arrives after so many losses at the latest: Linux's `tcp_retries2`.
const RETRIES: u32 = 15;

/// The RTO of a SYN, for which no round trip is known (RFC 6298, section 2.1).
const SYN_RTO: Duration = Duration::from_secs(1);

/// SYNs that follow each other after [`SYN_RTO`], before it doubles: `tcp_syn_linear_timeouts`, tcp(7).
const SYN_LINEAR: u32 = 4;

/// SYNs in all after the first, linear ones included: with `tcp_syn_retries` of 6, Linux gives up after 131 s.
const SYN_RETRIES: u32 = 10;

/// The granularity of the kernel's timers of a second, at 250 ticks a second: all that end in such a step go off at once.
const TIMER_STEP: Nanos = 32_000_000;

/// Draws are compared with the loss in so many parts.
const PARTS: u64 = 1 << 32;

impl Link {
    /// Without jitter and loss, everything is half a round trip late.
    fn one_way(&self) -> Duration {
        self.rtt / 2
    }

    /// How late a segment is on its way, losses included, in nanoseconds.
    pub(super) fn crossing(&self, draws: &mut Draws) -> Nanos {
        let mut rto = self.rtt.saturating_add(LEAST_RTO);
        let mut waited = Duration::ZERO;
        for _ in 0..RETRIES {
            if !self.is_lost(draws) {
                break;
            }
            waited = waited.saturating_add(rto);
            rto = rto.saturating_mul(2).min(LONGEST_RTO);
        }
        nanos(waited.saturating_add(self.jittered(draws)))
    }

    /// How late a SYN is, or its answer, which are not known to be lost sooner; `None`: it is lost.
    pub(super) fn handshake(&self, draws: &mut Draws) -> Option<Nanos> {
        if self.is_lost(draws) { None } else { Some(nanos(self.jittered(draws))) }
    }

    fn jittered(&self, draws: &mut Draws) -> Duration {
        // Nothing is drawn where nothing varies.
        if self.jitter.is_zero() { self.one_way() } else { late(self.one_way(), self.jitter, draws) }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to 1")]
    fn is_lost(&self, draws: &mut Draws) -> bool {
        self.loss > 0.0 && draws.up_to(PARTS - 1) < (self.loss * PARTS as f64) as u64
    }
}

/// The pause before a SYN is sent again, after so many; `None`: no more, and connect(2) ends with ETIMEDOUT after
/// [`last_syn`].
pub(super) fn syn_pause(sent: u32) -> Option<Nanos> {
    (sent <= SYN_RETRIES).then(|| nanos(SYN_RTO * (1 << sent.saturating_sub(SYN_LINEAR + 1))))
}

/// How long the last SYN is waited for.
pub(super) fn last_syn() -> Nanos {
    nanos(SYN_RTO * (1 << (SYN_RETRIES - SYN_LINEAR)))
}

/// When a timer of the kernel's goes off that should at this time. (Of SYNs that are lost one by one, it makes no difference.)
pub(super) fn timer(at: Nanos) -> Nanos {
    at.div_ceil(TIMER_STEP).saturating_mul(TIMER_STEP)
}

/// A duration in virtual time; what is longer than five centuries is as long, and a run ends sooner.
pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn without_loss_a_crossing_is_half_a_round_trip_and_its_jitter() {
        let mut draws = Draws::new(7, 1);
        let link = Link { rtt: 200 * MS, ..Link::default() };
        assert_eq!(link.crossing(&mut draws), 100_000_000);
        let link = Link { jitter: 30 * MS, ..link };
        let crossings: Vec<Nanos> = (0..1_000).map(|_| link.crossing(&mut draws)).collect();
        let (least, most) = (crossings.iter().min().expect("some"), crossings.iter().max().expect("some"));
        assert!((70_000_000..75_000_000).contains(least) && (125_000_000..=130_000_000).contains(most));
    }

    #[test]
    fn a_lost_segment_is_late_by_its_timeouts_which_double() {
        let link = Link { rtt: 100 * MS, loss: 0.5, ..Link::default() };
        let mut draws = Draws::new(7, 1);
        let crossings: Vec<Nanos> = (0..10_000).map(|_| link.crossing(&mut draws) / 1_000_000).collect();
        let share = |late: u64| crossings.iter().filter(|&&crossing| crossing == late).count();
        for (late, expected) in [(50, 5_000), (350, 2_500), (950, 1_250), (2_150, 625)] {
            assert!(share(late).abs_diff(expected) < 250, "{late} ms: {}", share(late));
        }
    }

    #[test]
    fn a_syn_is_sent_again_until_131_seconds_are_over() {
        let pauses: Vec<u64> = (1..).map_while(syn_pause).map(|pause| pause / 1_000_000_000).collect();
        assert_eq!(pauses, [1, 1, 1, 1, 1, 2, 4, 8, 16, 32]);
        assert_eq!(pauses.iter().sum::<u64>() + last_syn() / 1_000_000_000, 131);
        let all_lost = Link { loss: 1.0, ..Link::default() };
        assert_eq!(all_lost.handshake(&mut Draws::new(1, 1)), None);
    }
}
