//! `charfinder`: finds characters by the words of their names.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::charfinder::main()
}
