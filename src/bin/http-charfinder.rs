//! `http-charfinder`: finds characters for people with a browser, and for programs.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::http_charfinder::main()
}
