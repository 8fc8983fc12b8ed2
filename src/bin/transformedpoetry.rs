//! `transformedpoetry`: changes poems for any number of clients at once.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::transformedpoetry::main()
}
