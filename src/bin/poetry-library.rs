//! `poetry-library`: a JSON service over PostgreSQL whose cache stays true.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_library::main()
}
