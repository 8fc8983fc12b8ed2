//! `poetry-proxy`: one fetch for everyone, and memory for those who come later.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_proxy::main()
}
