//! `poetry-anthology`: one page from many sources, as they come.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_anthology::main()
}
