//! `poetry-sim`: the clients in virtual time, with as many poems as no laboratory has.

use std::process::ExitCode;

fn main() -> ExitCode {
    poetry_suite::programs::poetry_sim::main()
}
