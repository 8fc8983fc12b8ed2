//! `get-poetry`: fetches poems, one task a poem.

use std::process::ExitCode;

use poetry_suite::programs::{Model, get_poetry};

fn main() -> ExitCode {
    get_poetry::main(Model::Async)
}
