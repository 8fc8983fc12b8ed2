//! `tcp-charfinder`: finds characters for people with telnet.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::tcp_charfinder::main()
}
