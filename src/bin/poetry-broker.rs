//! `poetry-broker`: carries messages from those who send them to those who listen.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_broker::main()
}
