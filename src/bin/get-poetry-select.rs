//! `get-poetry-select`: fetches poems, one readiness loop for all poems.

use std::process::ExitCode;

use poetry_suite::programs::{Model, get_poetry};

fn main() -> ExitCode {
    get_poetry::main(Model::Select)
}
