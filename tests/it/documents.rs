//! What people read in the repository: every file that it points to is there.

use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

/// The pages at the top and in `docs`.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [root.to_owned(), root.join("docs")].map(|directory| fs::read_dir(directory).expect("a directory"));
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
