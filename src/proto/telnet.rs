//! The lines of a telnet session (RFC 854): text with commands in between, of which those that end it are obeyed and the
//! others are skipped.
//!
//! ```text
//!   s u n \r \n    FF F4 FF FD 06           FF FB 1F      FF FA 1F .. .. .. .. FF F0
//!   a line         interrupt process:       WILL NAWS     a subnegotiation
//!                  Ctrl-C, the end
//! ```
//!
//! A line ends with LF, CR LF, or CR NUL. Nothing is negotiated: whoever offers an option gets no answer, which is how a
//! plain network virtual terminal is asked for.

/// The longest subnegotiation, in bytes.
const LONGEST_SUBNEGOTIATION: usize = 1_024;

/// Interpret as command.
const IAC: u8 = 255;

/// Splits what arrives into lines. Bytes go through [`take_line`](Self::take_line); at the end of the stream
/// [`finish`](Self::finish) has what came after the last line.
#[derive(Debug)]
pub struct Lines {
    state: State,
    line: Vec<u8>,
    longest: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    /// After CR.
    Return,
    /// After IAC.
    Command,
    /// After WILL, WON'T, DO or DON'T: the option.
    Option,
    /// After SB, and so many bytes.
    Subnegotiation(usize),
    /// After IAC within one.
    SubnegotiationCommand(usize),
}

/// Why there are no more lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Ctrl-C, Ctrl-\ or Ctrl-D on a terminal in line mode.
    #[error("it was interrupted")]
    Interrupted,
    /// No such command, or a subnegotiation that does not end.
    #[error("it has sent no telnet")]
    Malformed,
    /// A line of more bytes than are allowed.
    #[error("its line is too long")]
    TooLong,
}

impl Lines {
    /// Lines of so many bytes at most, without what ends them.
    pub fn new(longest: usize) -> Self {
        Self { state: State::Text, line: Vec::new(), longest }
    }

    /// Takes bytes up to the end of a line off those that have arrived, and returns that line; `None`: all are taken, and
    /// it has not ended.
    ///
    /// # Errors
    /// The session is over.
    pub fn take_line(&mut self, arrived: &mut &[u8]) -> Result<Option<Vec<u8>>, End> {
        while let Some((&byte, rest)) = arrived.split_first() {
            *arrived = rest;
            if self.take(byte)? {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
        Ok(None)
    }

    /// Whether nothing has arrived since the last line.
    pub fn is_at_rest(&self) -> bool {
        self.state == State::Text && self.line.is_empty()
    }

    /// What has arrived after the last line, when no more comes; `None`: nothing.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.line)).filter(|line| !line.is_empty())
    }

    /// Takes a byte; whether it ends a line.
    fn take(&mut self, byte: u8) -> Result<bool, End> {
        let before = std::mem::replace(&mut self.state, State::Text);
        self.state = match (before, byte) {
            (State::Text, b'\n') | (State::Return, b'\n' | 0) => return Ok(true),
            (State::Text, b'\r') => State::Return,
            (State::Text, IAC) => State::Command,
            (State::Text, byte) => {
                self.add(byte)?;
                State::Text
            }
            (State::Return, _) => {
                self.add(b'\r')?;
                return self.take(byte);
            }
            (State::Command, IAC) => {
                self.add(IAC)?;
                State::Text
            }
            // WILL, WON'T, DO, DON'T
            (State::Command, 251..=254) => State::Option,
            (State::Command, 250) => State::Subnegotiation(0),
            // End of file, suspend, abort (RFC 1184); break, interrupt process
            (State::Command, 236..=238 | 243..=244) => return Err(End::Interrupted),
            // No operation, are you there, go ahead, and what else concerns nobody here
            (State::Command, 239..=249) => State::Text,
            (State::Command, _) => return Err(End::Malformed),
            (State::Option, _) => State::Text,
            (State::Subnegotiation(LONGEST_SUBNEGOTIATION..), _) => return Err(End::Malformed),
            (State::Subnegotiation(length), IAC) => State::SubnegotiationCommand(length),
            (State::Subnegotiation(length), _) => State::Subnegotiation(length + 1),
            (State::SubnegotiationCommand(_), 240) => State::Text,
            (State::SubnegotiationCommand(length), _) => State::Subnegotiation(length + 2),
        };
        Ok(false)
    }

    fn add(&mut self, byte: u8) -> Result<(), End> {
        if self.line.len() == self.longest {
            return Err(End::TooLong);
        }
        self.line.push(byte);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// All lines of a stream that arrives in these pieces, and how it ends.
    fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<End>) {
        let (mut decoder, mut lines) = (Lines::new(10), Vec::new());
        for mut piece in pieces {
            loop {
                match decoder.take_line(&mut piece) {
                    Ok(Some(line)) => lines.push(line),
                    Ok(None) => break,
                    Err(end) => return (lines, Some(end)),
                }
            }
        }
        lines.extend(decoder.finish());
        (lines, None)
    }

    fn texts(stream: &[u8]) -> (Vec<String>, Option<End>) {
        let (lines, end) = lines([stream]);
        (lines.iter().map(|line| line.escape_ascii().to_string()).collect(), end)
    }

    #[test]
    fn a_line_ends_in_one_of_three_ways() {
        let expected = (["sun", "cat", "rook", "", "a\\rb\\r", "last"].map(str::to_owned).to_vec(), None);
        assert_eq!(texts(b"sun\ncat\r\nrook\r\0\na\rb\r\r\nlast"), expected);
        assert_eq!(texts(b""), (vec![], None));
    }

    #[test]
    fn commands_are_obeyed_or_skipped() {
        let session = |commands: &[u8]| texts(&[b"a", commands, b"b\nc\n"].concat());
        let on = |line: &str| (vec![line.to_owned(), "c".to_owned()], None);
        for skipped in [
            &b"\xff\xf1"[..],
            b"\xff\xf6\xff\xf9",
            b"\xff\xfb\x1f\xff\xfc\x01\xff\xfd\x03\xff\xfe\xff",
            b"\xff\xfa\x1f\0\x50\0\x18\xff\xf0",
            b"\xff\xfa\x18\xff\xff\xff\xf1\n\xff\xf0",
        ] {
            assert_eq!(session(skipped), on("ab"), "{}", skipped.escape_ascii());
        }
        assert_eq!(session(b"\xff\xff"), on("a\\xffb"));
        for over in [&b"\xff\xf4\xff\xfd\x06"[..], b"\xff\xec", b"\xff\xee", b"\xff\xf3"] {
            assert_eq!(session(over), (vec![], Some(End::Interrupted)));
        }
        assert_eq!(session(b"\xff\x01"), (vec![], Some(End::Malformed)));
    }

    #[test]
    fn nothing_grows_without_a_limit() {
        assert_eq!(texts(b"0123456789\n0123456789\r\n"), (vec!["0123456789".to_owned(); 2], None));
        assert_eq!(texts(b"a\n0123456789a").1, Some(End::TooLong));
        assert_eq!(texts(b"0123456789\ra").1, Some(End::TooLong));
        let subnegotiation = |length| texts(&[b"\xff\xfa", &vec![0; length][..], b"\xff\xf0a"].concat());
        assert_eq!(subnegotiation(LONGEST_SUBNEGOTIATION - 1), (vec!["a".to_owned()], None));
        assert_eq!(subnegotiation(LONGEST_SUBNEGOTIATION).1, Some(End::Malformed));
    }

    proptest! {
        #[test]
        fn lines_are_what_they_were_wherever_the_stream_is_cut(
            stream in vec(prop::sample::select(&b"ab\r\n\0\xff\xf0\xf1\xf4\xfa\xfb\x01"[..]), 0..40),
            cuts in vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            prop_assert_eq!(lines(cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]])), lines([&stream[..]]));
        }
    }
}
