//! The environment variables of a program, as its help has them: they follow from its flags.

use clap::Command;

/// A variable, the flags of programs that heed it, and what it means there.
type Variable = (&'static str, &'static [&'static str], &'static str);

const VARIABLES: &[Variable] = &[
    (
        "RUST_LOG",
        &["log_format"],
        "what is logged, in place of -v and -q: levels, of targets if need be (warn,poetry_suite=debug)",
    ),
    ("NO_COLOR", &["log_format", "waterfall"], "if it is not empty, nothing is coloured"),
    ("LC_ALL, LC_CTYPE, LANG", &["waterfall"], "if they do not say UTF-8, pictures in characters are ASCII"),
    (
        "TMPDIR",
        &["ordered"],
        "where poems are kept that wait for their turn and have no place in memory [default: /tmp]",
    ),
    (
        "POETRY_ADDR, POETRY_HOST, POETRY_PORT",
        &["command"],
        "for CMD: where the server listens, as HOST:PORT and in parts",
    ),
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", &["daemon"], "from systemd: sockets that are open already"),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
        &["daemon"],
        "from systemd: where to say that it is ready and alive",
    ),
];

/// The section before which they stand.
const NEXT: &str = "\n\nExit status:\n";

/// Adds a section to the help of a program, and of its subcommands.
pub(super) fn tell(command: Command) -> Command {
    let has = |flag: &&str| command.get_arguments().any(|arg| arg.get_id() == flag);
    let heeded = VARIABLES.iter().filter(|(_, flags, _)| flags.iter().any(has));
    let lines: String = heeded.map(|(name, _, meaning)| format!("\n  {name}\n      {meaning}")).collect();
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let command = match help.split_once(NEXT) {
        Some((before, after)) if !lines.is_empty() => {
            command.after_long_help(format!("{before}\n\nEnvironment:{lines}{NEXT}{after}"))
        }
        _ => command,
    };
    command.mut_subcommands(tell)
}
