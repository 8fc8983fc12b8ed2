//! `poetry-chaos`: trouble in front of any TCP server, on demand, and the same trouble again.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_chaos::main()
}
