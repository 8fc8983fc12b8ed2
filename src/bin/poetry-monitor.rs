//! `poetry-monitor`: shows what servers do and what it costs, live, in a web page.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_monitor::main()
}
