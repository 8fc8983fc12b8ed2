//! Man pages and shell completions of every program, from the definitions of their command lines and nothing else.
//!
//! `manual DIR` writes `man/*.1`, `man/poetry-suite.7` and `completions/{bash,zsh,fish}/*` in DIR. `scripts/install.sh` runs it.
//!
//! A page says what `--help` says, in the sections of man-pages(7). It has no date, so that it is the same whenever it
//! is made. The text after the options is read as [`programs::commands`] says.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Command, Parser, ValueHint};
use clap_complete::{Shell, generate};
use poetry_suite::programs;
use roff::{Roff, bold, italic, roman};

#[derive(Parser)]
struct Args {
    /// Where to write `man` and `completions`
    directory: PathBuf,
}

fn main() -> ExitCode {
    let Args { directory } = Args::parse();
    match write_all(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "manual: cannot write to {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn write_all(directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    let commands = programs::commands();
    let names: Vec<String> = commands.iter().map(|command| command.get_name().to_owned()).collect();
    fs::write(man.join("poetry-suite.7"), overview(&commands))?;
    for (command, name) in commands.into_iter().zip(&names) {
        for (shell, file) in [
            (Shell::Bash, format!("bash/{name}")),
            (Shell::Zsh, format!("zsh/_{name}")),
            (Shell::Fish, format!("fish/{name}.fish")),
        ] {
            let mut script = Vec::new();
            generate(shell, &mut with_hints(command.clone()), name, &mut script);
            fs::create_dir_all(completions.join(shell.to_string()))?;
            fs::write(completions.join(file), script)?;
        }
        let mut command = command.disable_help_subcommand(true);
        command.build();
        write_pages(&command, &names, &man)?;
    }
    Ok(())
}

/// What is not said to be a path is none, and no file is offered for it.
fn with_hints(command: Command) -> Command {
    let hint = |arg: Arg| match arg.get_value_hint() {
        ValueHint::Unknown if arg.get_action().takes_values() => arg.value_hint(ValueHint::Other),
        _ => arg,
    };
    command.mut_args(hint).mut_subcommands(with_hints)
}

/// The page of a command, and those of its subcommands.
fn write_pages(command: &Command, names: &[String], directory: &Path) -> io::Result<()> {
    fs::write(directory.join(format!("{}.1", page_name(command))), in_ascii(&page(command, names)))?;
    shown_subcommands(command).try_for_each(|command| write_pages(command, names, directory))
}

/// As groff wants characters that are none of ASCII: by their codes (groff_char(7)).
fn in_ascii(page: &str) -> String {
    let escaped = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(escaped).collect()
}

fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn shown_subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

fn page(command: &Command, names: &[String]) -> String {
    let name = page_name(command);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let long_about = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    // Its first paragraph is the summary, which is in NAME.
    let description = long_about.split_once("\n\n").map_or(&*about, |(_, rest)| rest);
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let (remarks, sections) = remarks_and_sections(&after);

    let mut page = Roff::new();
    page.control("TH", [&name.to_uppercase(), "1", "\"\"", &source(command), "The poetry suite"]);
    // Names and options stay whole.
    page.control("nh", []).control("ad", ["l"]);
    page.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    page.control("SH", ["SYNOPSIS"]);
    synopsis(&mut page, command);
    page.control("SH", ["DESCRIPTION"]);
    paragraphs(&mut page, "PP", description.split("\n\n").chain(remarks));
    page.control("SH", ["OPTIONS"]);
    options(&mut page, command);
    if shown_subcommands(command).next().is_some() {
        page.control("SH", ["COMMANDS"]);
    }
    for subcommand in shown_subcommands(command) {
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        page.control("TP", []).text([bold(page_name(subcommand)), roman("(1)")]).text([roman(about)]);
    }
    for (heading, lines) in sections {
        page.control("SH", [heading.to_uppercase().as_str()]);
        items(&mut page, &lines);
    }
    page.control("SH", ["SEE ALSO"]);
    for other in names.iter().filter(|other| *other != name) {
        page.text([bold(other.as_str()), roman("(1),")]);
    }
    page.text([bold("poetry-suite"), roman("(7)")]);
    page.render()
}

/// What a page belongs to, for its bottom.
fn source(command: &Command) -> String {
    format!("poetry-suite {}", command.get_version().unwrap_or_default())
}

/// The page of the suite as a whole.
fn overview(commands: &[Command]) -> String {
    let mut page = Roff::new();
    let source = commands.first().map(source).unwrap_or_default();
    page.control("TH", ["POETRY-SUITE", "7", "\"\"", &source, "The poetry suite"]);
    page.control("nh", []).control("ad", ["l"]);
    page.control("SH", ["NAME"])
        .text([roman("poetry-suite - what waiting costs: servers of slow poems, and clients that wait")]);
    page.control("SH", ["DESCRIPTION"]);
    paragraphs(&mut page, "PP", OVERVIEW.split("\n\n"));
    page.control("SH", ["PROGRAMS"]);
    for command in commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        page.control("TP", []).text([bold(command.get_name()), roman("(1)")]).text([roman(about)]);
    }
    for (heading, lines) in remarks_and_sections(SECTIONS).1 {
        page.control("SH", [heading.to_uppercase().as_str()]);
        items(&mut page, &lines);
    }
    page.control("SH", ["SEE ALSO"]);
    for (index, command) in commands.iter().enumerate() {
        let end = if index + 1 < commands.len() { "(1)," } else { "(1)" };
        page.text([bold(command.get_name()), roman(end)]);
    }
    page.render()
}

const OVERVIEW: &str = "\
The poetry suite is a laboratory for concurrent input and output. Servers give out poems slowly, fast, changed, through a \
cache, or with troubles that can be repeated; clients fetch them in four models of waiting, one after another (blocking), \
with a thread for each poem, in one thread with poll(2), and async. All are measured alike.

A poem server sends its poem as soon as somebody connects, and ends the stream (FIN) after the last byte. A reset (RST) \
means that what has arrived is no poem. A transform server takes a netstring, NAME.POEM, and replies with one, or closes \
the connection.";

const SECTIONS: &str = "\
Examples:
  slowpoetry --port 10000 ecstasy
      A poem, ten bytes every tenth of a second
  get-poetry 10000 10001 10002
      Three poems at once
  poetry-race 10000 10001 10002
      What each model of waiting needs for them
  poetry-race --demo
      The same, with servers of its own

Conventions:
  Addresses are PORT (on this machine), HOST:PORT or [IPv6]:PORT. Durations are like 100ms, '1m 30s' or a bare number \
of seconds; sizes like 10, 10k, 64KiB or 1M bytes. A server prints where it is as its first line; messages go to stderr. \
Port 0 is any free one.

Exit status:
  0    all is well
  1    something failed
  2    the command line makes no sense, or a file that was read
  130  interrupted by Ctrl-C; but a server that is stopped ends with 0
";

/// What `--help` has after `Usage:`, the name in bold.
fn synopsis(page: &mut Roff, command: &Command) {
    let usage = command.clone().render_usage().to_string();
    let program = command.get_bin_name().unwrap_or_else(|| command.get_name());
    for (index, line) in usage.trim_start_matches("Usage:").lines().enumerate() {
        if index > 0 {
            page.control("br", []);
        }
        match line.trim().strip_prefix(program) {
            Some(rest) => page.text([bold(program), roman(rest)]),
            None => page.text([roman(line.trim())]),
        };
    }
}

/// All arguments in the order of `--help`: those without a heading, then heading by heading.
fn options(page: &mut Roff, command: &Command) {
    let shown: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_hide_set()).collect();
    let mut headings = vec![None];
    for arg in &shown {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            page.control("SS", [heading]);
        }
        let (arguments, options): (Vec<&Arg>, Vec<&Arg>) =
            shown.iter().filter(|arg| arg.get_help_heading() == heading).partition(|arg| arg.is_positional());
        for arg in arguments.into_iter().chain(options) {
            option(page, arg);
        }
    }
}

fn option(page: &mut Roff, arg: &Arg) {
    let takes_values = arg.get_num_args().is_some_and(|number| number.takes_values());
    let flags = [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    let flags: Vec<String> = flags.into_iter().flatten().collect();
    let values = arg.get_value_names().unwrap_or_default().iter().map(|name| format!(" <{name}>"));
    page.control("TP", []);
    if arg.is_positional() {
        page.text([italic(arg.to_string())]);
    } else if takes_values {
        page.text([bold(flags.join(", ")), italic(values.collect::<String>())]);
    } else {
        page.text([bold(flags.join(", "))]);
    }

    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    paragraphs(page, "IP", help.split("\n\n"));
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes_values && !defaults.is_empty() && !arg.is_hide_default_value_set() {
        page.text([roman(format!("[default: {}]", defaults.join(" ")))]);
    }
    let values = arg.get_possible_values();
    if !values.is_empty() && !arg.is_hide_possible_values_set() {
        page.control("RS", []);
        for value in values.iter().filter(|value| !value.is_hide_set()) {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            page.control("TP", []).text([bold(value.get_name())]).text([roman(help)]);
        }
        page.control("RE", []);
    }
}

/// Paragraphs with this macro between them.
fn paragraphs<'a>(page: &mut Roff, between: &str, texts: impl IntoIterator<Item = &'a str>) {
    for (index, text) in texts.into_iter().enumerate() {
        if index > 0 {
            page.control(between, []);
        }
        page.text([roman(text)]);
    }
}

/// The paragraphs that are in no section, and each section's heading and lines.
fn remarks_and_sections(text: &str) -> (Vec<&str>, Vec<(&str, Vec<&str>)>) {
    let (mut remarks, mut sections) = (Vec::new(), Vec::<(&str, Vec<&str>)>::new());
    for line in text.lines() {
        match (line.strip_suffix(':').filter(|line| !line.starts_with(' ')), sections.last_mut()) {
            (Some(heading), _) => sections.push((heading, Vec::new())),
            (None, Some((_, lines))) if line.is_empty() || line.starts_with(' ') => lines.push(line),
            _ => remarks.extend(Some(line).filter(|line| !line.is_empty())),
        }
    }
    (remarks, sections)
}

/// `  TERM  MEANING`, or `  TERM` with `      MEANING` below, becomes an item of a list; any other line is text.
fn items(page: &mut Roff, lines: &[&str]) {
    const DEEPER: &str = "   ";
    for (index, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let next = lines.get(index + 1).unwrap_or(&"");
        match text.split_once("  ") {
            Some((term, meaning)) => {
                page.control("TP", []).text([bold(term)]).text([roman(meaning.trim_start())]);
            }
            // The last line of a section is empty.
            None if text.is_empty() && next.is_empty() => {}
            None if text.is_empty() => {
                page.control("PP", []);
            }
            None if next.starts_with(DEEPER) && !line.starts_with(DEEPER) => {
                page.control("TP", []).text([bold(text)]);
            }
            None => {
                page.text([roman(text)]);
            }
        }
    }
}
