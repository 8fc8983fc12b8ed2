//! The flags of a [`Pace`].

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use crate::cli::values;
use crate::pace::{Cut, CutAt, Ending, Pace, Tempo};

/// The flags of the pace of a connection; the keys of a table in a script, too.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Pace")]
pub struct PaceArgs {
    /// Time from one piece to the next
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    #[arg(conflicts_with = "rate")]
    #[arg(help = "Time from one piece to the next [default: 100ms]")]
    delay: Option<Duration>,

    /// Bytes in a piece
    #[arg(long, value_name = "SIZE", value_parser = values::positive_size, allow_hyphen_values = true)]
    #[arg(help = "Bytes in a piece [default: 10; with --rate 25 pieces a second]")]
    num_bytes: Option<NonZeroUsize>,

    /// Bytes a second, instead of a delay
    #[arg(long, value_name = "SIZE", value_parser = values::rate, allow_hyphen_values = true)]
    rate: Option<NonZeroU64>,

    /// Make each delay shorter or longer by chance, by so much at most
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    jitter: Option<Duration>,

    /// Accept, and then be silent for so long
    #[arg(long, value_name = "DURATION", value_parser = values::duration, allow_hyphen_values = true)]
    first_byte_delay: Option<Duration>,

    /// End early: after so many bytes (100, 64KiB), or so long after accept (3s, 1m)
    #[arg(long, help_heading = "Faults", value_name = "BYTES|DURATION", value_parser = values::cut_at)]
    #[arg(allow_hyphen_values = true)]
    cut_at: Option<CutAt>,

    /// How it ends then
    #[arg(long, help_heading = "Faults", value_name = "HOW", value_enum, requires = "cut_at")]
    #[arg(help = "How it ends then: like a whole poem, with a reset, or in silence for ever [default: rst]")]
    cut: Option<How>,
}

/// How a connection is cut: an [`Ending`] as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// As if the poem were complete
    Fin,
    /// With a reset
    Rst,
    /// By silence for ever
    Hang,
}

/// The defaults of a server's pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usual {
    /// slowpoetry trickles: ten bytes every tenth of a second.
    Slow,
    /// fastpoetry sends the whole poem at once.
    AtOnce,
}

impl PaceArgs {
    const NUM_BYTES: u64 = 10;
    const DELAY: Duration = Duration::from_millis(100);
    /// The usual pieces of a rate: few enough to cost little, enough to look steady.
    const PIECES_A_SECOND: u64 = 25;

    /// The pace of these flags; those that are not given have the usual defaults.
    ///
    /// # Errors
    /// There is no delay that jitter could vary.
    pub(in crate::programs) fn pace(&self, usual: Usual) -> Result<Pace, String> {
        let first_byte_delay = self.first_byte_delay.unwrap_or_default();
        let at_once = usual == Usual::AtOnce && self.delay.is_none() && self.num_bytes.is_none();
        let (usual_bytes, tempo) = match self.rate {
            Some(rate) => (rate.get() / Self::PIECES_A_SECOND, Tempo::Rate(rate)),
            None if at_once => (u64::MAX, Tempo::Delay(Duration::ZERO)),
            None => (Self::NUM_BYTES, Tempo::Delay(self.delay.unwrap_or(Self::DELAY))),
        };
        let num_bytes = self.num_bytes.map_or(usual_bytes, |bytes| bytes.get() as u64);
        if self.jitter.is_some() && first_byte_delay.is_zero() && tempo == Tempo::Delay(Duration::ZERO) {
            return Err("there is no delay that jitter could vary".to_owned());
        }
        Ok(Pace {
            first_byte_delay,
            num_bytes: NonZeroU64::new(num_bytes).unwrap_or(NonZeroU64::MIN),
            tempo,
            jitter: self.jitter.unwrap_or_default(),
            cut: self.cut_at.map(|at| Cut { at, how: self.cut.unwrap_or(How::Rst).into() }),
        })
    }

    /// Takes the jitter away, for whatever else is to jitter.
    pub(in crate::programs) fn take_jitter(&mut self) -> Option<Duration> {
        self.jitter.take()
    }

    /// Whether something is drawn.
    pub(in crate::programs) fn has_jitter(&self) -> bool {
        self.jitter.is_some_and(|jitter| !jitter.is_zero())
    }

    /// Overrides `base`: flags that are not given here are taken from there, except a cut.
    pub(in crate::programs) fn over(self, base: &Self) -> Self {
        let (delay, rate) = match (self.delay, self.rate) {
            (None, None) => (base.delay, base.rate),
            own => own,
        };
        Self {
            delay,
            rate,
            num_bytes: self.num_bytes.or(base.num_bytes),
            jitter: self.jitter.or(base.jitter),
            first_byte_delay: self.first_byte_delay.or(base.first_byte_delay),
            ..self
        }
    }
}

impl From<How> for Ending {
    fn from(how: How) -> Self {
        match how {
            How::Fin => Self::Fin,
            How::Rst => Self::Rst,
            How::Hang => Self::Hang,
        }
    }
}
