//! `poetry-listen`: shows what is sent to a channel of a message broker.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_listen::main()
}
