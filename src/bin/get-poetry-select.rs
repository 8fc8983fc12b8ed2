//! `get-poetry-select`: fetches poems, one readiness loop for all poems.

use std::process::ExitCode;

use poetry_suite::cli::get_poetry;
use poetry_suite::client::Model;

fn main() -> ExitCode {
    get_poetry::main(Model::Select)
}
