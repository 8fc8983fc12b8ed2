//! `slowpoetry`: gives out a poem slowly, to one client at a time.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::slowpoetry::main()
}
