//! `poetryd`: runs the async servers as one service.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetryd::main()
}
