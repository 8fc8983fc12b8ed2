//! `get-poetry-blocking`: fetches poems, one poem after another.

use std::process::ExitCode;

use poetry_suite::programs::{Model, get_poetry};

fn main() -> ExitCode {
    get_poetry::main(Model::Blocking)
}
