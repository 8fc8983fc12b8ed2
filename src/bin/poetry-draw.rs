//! `poetry-draw`: draws reports of clients and recordings of servers as waterfalls.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_draw::main()
}
