//! `poetry-race`: the four clients against each other, and what each model of waiting costs.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_race::main()
}
