//! What people read in the repository: every file that it points to is there, and every command can be pasted.

use std::fs;
use std::iter;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex_lite::Regex;
use tempfile::TempDir;

use crate::harness::{finish, path_of};

/// The pages at the top, in `docs` and in `examples`.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [root.to_owned(), root.join("docs"), root.join("examples")]
        .map(|directory| fs::read_dir(directory).expect("a directory"));
    let paths = files.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The anchor of a heading, as those who show Markdown make it.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase().replace(' ', "-");
    letters.chars().filter(|&c| c.is_alphanumeric() || c == '-' || c == '_').collect()
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("valid");
    for page in pages() {
        let text = fs::read_to_string(&page).expect("UTF-8");
        for found in link.captures_iter(&text).map(|found| found[1].to_owned()) {
            if found.contains("://") {
                continue;
            }
            let (file, heading) = found.split_once('#').unwrap_or((&found, ""));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            assert!(target.exists(), "{}: there is no {found}", page.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("UTF-8");
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let is_there = headings.any(|line| anchor(line.trim_start_matches('#')) == heading);
                assert!(is_there, "{}: there is no heading for {found}", page.display());
            }
        }
    }
}

/// The blocks of shell commands in a page.
fn commands(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("UTF-8");
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a block"));
    blocks.map(str::to_owned).collect()
}

/// A directory in which all of the repository is, the programs are where `cargo build --profile quick` puts them, and
/// cargo is one that has done its work already.
fn checkout() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("a directory").map(|entry| entry.expect("an entry")) {
        if entry.file_name() != "target" {
            symlink(entry.path(), directory.path().join(entry.file_name())).expect("a link");
        }
    }
    fs::create_dir(directory.path().join("target")).expect("a directory");
    let programs = path_of("get-poetry").parent().expect("a directory").to_owned();
    symlink(programs, directory.path().join("target/quick")).expect("a link");
    // One that is there already: what is written here could not be executed while another test starts something
    // (ETXTBSY).
    symlink("/bin/true", directory.path().join("target/cargo")).expect("a link");
    directory
}

/// All in one shell, except for what installs: `.ci/run` pastes that, too, with a real cargo.
#[test]
fn every_command_of_the_front_door_can_be_pasted() {
    let checkout = checkout();
    let blocks = commands(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).concat();
    let lines = blocks.lines().filter(|line| !line.starts_with("./scripts/install.sh"));
    let script = iter::once("PATH=$PWD/target:$PATH").chain(lines).collect::<Vec<_>>().join("\n");
    let mut shell = Command::new("bash");
    shell.args(["-euxc", &script]).current_dir(checkout.path()).stdin(Stdio::null());
    let pasted = finish(shell.env_remove("CARGO_TARGET_DIR").env_remove("BASH_ENV"));
    assert_eq!(pasted.code(), 0, "{}", pasted.stderr);
    for program in ["./scripts/compare.sh", "cargo test", "slowpoetry ", "fastpoetry "] {
        assert!(
            format!("\n{}", pasted.stderr).contains(&format!("\n+ {program}")),
            "{program} is not tried: {}",
            pasted.stderr
        );
    }
}

/// A remark beside a command is one to the shell, too.
#[test]
fn every_block_of_commands_is_one_to_a_shell() {
    for page in pages() {
        for block in commands(&page) {
            let checked = finish(Command::new("bash").args(["-nc", &block]).stdin(Stdio::null()));
            assert_eq!((checked.code(), checked.stderr.as_str()), (0, ""), "{}: {block}", page.display());
        }
    }
}
