//! `fastpoetry`: gives out a poem to any number of clients at once.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::fastpoetry::main()
}
