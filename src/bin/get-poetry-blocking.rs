//! `get-poetry-blocking`: fetches poems, one poem after another.

use std::process::ExitCode;

use poetry_suite::cli::get_poetry;
use poetry_suite::client::Model;

fn main() -> ExitCode {
    get_poetry::main(Model::Blocking)
}
