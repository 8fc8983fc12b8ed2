//! `poetry-send`: sends messages to a channel of a message broker.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_send::main()
}
