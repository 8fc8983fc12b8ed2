//! What a terminal shows, on a pseudo-terminal.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;

use crate::harness::{
    CLIENTS, Finished, PATIENCE, Running, Server, Service, path_of, poem_file, program, refusing_port, run, send_whole,
};

const ROWS: NonZero<u16> = NonZero::new(24).expect("not zero");
const COLUMNS: NonZero<u16> = NonZero::new(100).expect("not zero");

/// A program whose stdin and stderr (and stdout, if wanted) are a terminal.
struct OnTerminal {
    running: Running,
    keyboard: File,
    output: mpsc::Receiver<Vec<u8>>,
    shown: Vec<u8>,
    screen: vt100::Parser,
}

/// What is left on the terminal when the program has ended.
struct Left {
    finished: Finished,
    /// Everything that was sent to it.
    shown: String,
    /// The lines on it.
    screen: String,
}

impl OnTerminal {
    fn start(command: &mut Command, stdout_too: bool) -> Self {
        let size = Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal");
        let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        if command.get_envs().all(|(name, _)| name != "TERM") {
            command.env("TERM", "xterm");
        }
        command.stdin(slave(&pty.slave)).stderr(slave(&pty.slave));
        command.stdout(if stdout_too { slave(&pty.slave) } else { Stdio::piped() });
        let running = Running::start_as_is(command);
        // Only the program holds the terminal now: its end is the end of what is shown.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(pty.slave);
        let (show, output) = mpsc::channel();
        let mut master = File::from(pty.master);
        let keyboard = master.try_clone().expect("a descriptor");
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = master.read(&mut buffer) {
                if n == 0 || show.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vt100::Parser::new(ROWS, COLUMNS, 0);
        Self { running, keyboard, output, shown: Vec::new(), screen }
    }

    /// Waits until `part` is on the screen.
    fn see(&mut self, part: &str) {
        while !self.screen.screen().contents().contains(part) {
            match self.output.recv_timeout(Duration::from_secs(60)) {
                Ok(bytes) => self.show(&bytes),
                Err(error) => panic!("no '{part}' ({error}) on: {}", self.screen.screen().contents()),
            }
        }
    }

    /// Gives the terminal another width, and the program SIGWINCH.
    fn resize(&mut self, columns: u16) {
        let master = Stdio::from(self.keyboard.try_clone().expect("a descriptor"));
        let resized = Command::new("stty").args(["cols", &columns.to_string()]).stdin(master).status();
        assert!(resized.expect("stty").success());
        self.screen.screen_mut().set_size(ROWS, columns.try_into().expect("not zero"));
    }

    /// Waits until a row of the screen starts so.
    fn see_row(&mut self, start: &str) {
        self.see(start);
        let rows: Vec<String> = self.screen.screen().rows(0, COLUMNS.get()).collect();
        assert!(rows.iter().any(|row| row.starts_with(start)), "no row '{start}' in {rows:?}");
    }

    fn show(&mut self, bytes: &[u8]) {
        self.shown.extend(bytes);
        self.screen.process(bytes);
    }

    fn finish(mut self) -> Left {
        while let Ok(bytes) = self.output.recv() {
            self.show(&bytes);
        }
        let screen = self.screen.screen();
        assert!(!screen.hide_cursor(), "the cursor is hidden: {}", screen.contents());
        let screen = screen.contents();
        let shown = String::from_utf8_lossy(&self.shown).into_owned();
        Left { finished: self.running.finish(), shown, screen }
    }
}

impl Left {
    /// There is nothing on the screen but lines that start so, one each.
    ///
    /// A typed Ctrl-C is a signal first and an echo then: the program may have cleared the screen before that.
    fn expect_lines(&self, starts: &[&str]) {
        let lines: Vec<&str> = self.screen.lines().filter(|line| *line != "^C").collect();
        let agree =
            lines.len() == starts.len() && lines.iter().zip(starts).all(|(line, start)| line.starts_with(start));
        assert!(agree, "{starts:?} is not what is on the screen:\n{}", self.screen);
    }
}

/// A server that sends half a poem, and the rest when told.
fn in_two_halves() -> (Server, mpsc::Sender<()>) {
    let (go_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = Server::start(move |_, mut stream| {
        stream.write_all(b"half a poem, ").expect("a client");
        if wait.lock().expect("lock").recv().is_ok() {
            send_whole(stream, b"and the rest\n");
        }
    });
    (server, go_on)
}

#[test]
fn bars_take_the_place_of_running_messages() {
    for client in CLIENTS {
        let (server, go_on) = in_two_halves();
        let mut terminal = OnTerminal::start(program(client).arg(server.port()), false);
        terminal.see(&format!("Task 1  {}  receiving           13 B", server.name()));
        go_on.send(()).expect("the server");
        let left = terminal.finish();
        let stdout = &left.finished.stdout[..];
        assert_eq!((left.finished.code(), stdout), (0, &b"half a poem, and the rest\n"[..]), "{client}");
        let got = format!("Task 1: got 26 bytes of poetry from {} in ", server.name());
        left.expect_lines(&[&got, "Got 1 poem in "]);
    }
}

#[test]
fn interrupted_bars_are_cleared() {
    for client in CLIENTS {
        for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            let (server, _go_on) = in_two_halves();
            let mut terminal = OnTerminal::start(program(client).args(vec![server.port(); 3]), false);
            terminal.see("receiving");
            terminal.see_row("Task 3  ");
            terminal.running.signal(signal);
            let left = terminal.finish();
            assert_eq!(left.finished.code(), code);
            left.expect_lines(&["Got 0 of 3 poems in "]);
        }
    }
}

#[test]
fn the_echo_of_a_typed_interrupt_leaves_no_bar_behind() {
    for client in CLIENTS {
        let (server, _go_on) = in_two_halves();
        // Only its controlling terminal makes a signal of what is typed.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(path_of(client)).args(vec![server.port(); 3]);
        let mut terminal = OnTerminal::start(&mut command, false);
        terminal.see("receiving");
        terminal.see_row("Task 3  ");
        terminal.keyboard.write_all(b"\x03").expect("a key");
        let left = terminal.finish();
        assert_eq!(left.finished.code(), 130, "{client}");
        assert!(left.shown.contains("^C"), "{client}: no echo");
        left.expect_lines(&["Got 0 of 3 poems in "]);
    }
}

#[test]
fn an_interrupted_race_leaves_nothing_on_the_terminal() {
    let (server, _go_on) = in_two_halves();
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(path_of("poetry-race")).arg(server.port());
    let mut terminal = OnTerminal::start(&mut command, true);
    terminal.see_row("run 1 of 13: async ");
    terminal.keyboard.write_all(b"\x03").expect("a key");
    let left = terminal.finish();
    assert_eq!(left.finished.code(), 130);
    left.expect_lines(&[]);
}

#[test]
fn a_race_moves_on_and_says_what_is_left() {
    let server = Service::start(
        program("fastpoetry").args(["--num-bytes", "200", "--delay", "400ms"]).arg(poem_file("science.txt")),
    );
    let mut command = Command::new(path_of("poetry-race"));
    command.args(["--runs", "1", "--models", "select,blocking", "--warm-up", "0"]).args([server.port(), server.port()]);
    let mut terminal = OnTerminal::start(&mut command, false);
    terminal.see_row("run 1 of 2: select ");
    // Two poems of 1.2 s, one after the other.
    terminal.see_row("run 2 of 2: blocking ");
    terminal.see("s, about 3 s left");
    terminal.see("s, about 1 s left");
    let left = terminal.finish();
    assert_eq!(left.finished.code(), 0);
    let times =
        |model| left.shown.split(model).skip(1).filter_map(|rest| rest.split(',').next()).collect::<BTreeSet<_>>();
    assert!(times("blocking ").len() > 3, "nothing moves: {}", left.shown);
}

#[test]
fn bars_do_not_hold_up_the_end_while_nobody_reads_stdout() {
    let server = Server::poem(vec![b'x'; 4_000_000]);
    let (stuck, _go_on) = in_two_halves();
    for client in CLIENTS {
        // The read end is held, and never read.
        let mut terminal = OnTerminal::start(program(client).args([server.port(), stuck.port()]), false);
        terminal.see_row("Task 2  ");
        terminal.running.signal(Signal::SIGINT);
        assert_eq!(terminal.running.finish().code(), 130, "{client}");
    }
}

#[test]
fn more_poems_than_rows_are_folded_and_cleared() {
    for client in CLIENTS {
        let (server, _go_on) = in_two_halves();
        let mut terminal = OnTerminal::start(program(client).args(vec![server.port(); 100]), false);
        terminal.see("Task  22  ");
        terminal.see_row("and 78 more: ");
        terminal.running.signal(Signal::SIGINT);
        terminal.finish().expect_lines(&["Got 0 of 100 poems in "]);
    }
}

#[test]
fn failures_are_said_above_the_bars() {
    let (server, go_on) = in_two_halves();
    let (_held, refusing) = refusing_port();
    let mut terminal = OnTerminal::start(program("get-poetry").args([server.port(), refusing]), false);
    terminal.see("receiving");
    terminal.see("Task 2: failed: ");
    go_on.send(()).expect("the server");
    let left = terminal.finish();
    assert_eq!(left.finished.code(), 1);
    left.expect_lines(&["Task 2: failed: ", "Task 1: got 26 bytes ", "Got 1 of 2 poems in "]);
}

/// A server of tmux(1) with one session in it; `None` if there is no tmux here.
struct Tmux {
    directory: tempfile::TempDir,
}

impl Tmux {
    fn start(columns: u16, script: &str) -> Option<Self> {
        let tmux = Self { directory: tempfile::tempdir().expect("a directory") };
        let columns = columns.to_string();
        let started =
            tmux.command(&["-f", "/dev/null", "new-session", "-d", "-y", "24", "-x", &columns, script]).status();
        match started {
            Ok(status) => assert!(status.success(), "tmux: {status}"),
            Err(error) => {
                writeln!(io::stderr(), "skipped: no tmux: {error}").expect("told");
                return None;
            }
        }
        Some(tmux)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.env("TMUX_TMPDIR", self.directory.path()).env_remove("TMUX").env("LC_ALL", "C.UTF-8").args(args);
        command.stdin(Stdio::null());
        command
    }

    /// What is on the screen, and what has gone above it.
    fn rows(&self) -> Vec<String> {
        let shown = self.command(&["capture-pane", "-p", "-S", "-"]).output().expect("tmux");
        let shown = String::from_utf8(shown.stdout).expect("UTF-8");
        shown.lines().filter(|row| !row.is_empty()).map(str::to_owned).collect()
    }

    fn resize(&self, columns: u16) {
        let columns = columns.to_string();
        assert!(self.command(&["resize-window", "-x", &columns]).status().expect("tmux").success());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).status();
    }
}

#[test]
fn a_terminal_that_breaks_its_lines_anew_keeps_failures_and_no_piece_of_a_bar() {
    let (server, _go_on) = in_two_halves();
    let (_held, refusing) = refusing_port();
    for client in ["get-poetry", "get-poetry-select", "get-poetry-threads"] {
        for sizes in [[36, 90, 36, 20], [90, 50, 90, 36]] {
            let program = path_of(client);
            // A screen that is full, and not only of bars.
            let ports = [server.port(), server.port(), refusing.clone(), server.port()].join(" ");
            let script = format!("seq 40; '{}' {ports} > /dev/null; sleep 1000", program.display());
            let Some(tmux) = Tmux::start(sizes[0], &script) else { return };
            for columns in sizes {
                tmux.resize(columns);
                let name = server.name();
                let waiting = |task: u8| format!("Task {task}  {name}  receiving           13 B");
                let cut = |line: &str| line.chars().take(usize::from(columns) - 1).collect::<String>();
                let failure = format!("Task 3: failed: 127.0.0.1:{refusing}: connection refused");
                let broken: Vec<String> = failure
                    .as_bytes()
                    .chunks(columns.into())
                    .map(|row| String::from_utf8_lossy(row).trim_end().to_owned())
                    .collect();
                let bars: Vec<String> = [1, 2, 4].map(waiting).iter().map(|line| cut(line)).collect();
                let rows = [&["40".to_owned()][..], &broken, &bars].concat();
                // The rate changes, and is cut away.
                let until = Instant::now() + PATIENCE;
                loop {
                    let shown = tmux.rows();
                    let tail = &shown[shown.len().saturating_sub(rows.len())..];
                    let same = |(row, wanted): (&String, &String)| row.starts_with(wanted.trim_end());
                    if tail.len() == rows.len() && tail.iter().zip(&rows).all(same) {
                        break;
                    }
                    assert!(Instant::now() < until, "{client} {columns}: {rows:#?} are not the last of {shown:#?}");
                    thread::park_timeout(Duration::from_millis(10));
                }
            }
        }
    }
}

#[test]
fn a_terminal_that_cuts_its_lines_keeps_failures_and_no_piece_of_a_bar() {
    let (server, go_on) = in_two_halves();
    let (_held, refusing) = refusing_port();
    let mut terminal = OnTerminal::start(program("get-poetry").args([server.port(), refusing, server.port()]), false);
    terminal.see("Task 2: failed: ");
    for columns in [50, 90, 36, 100] {
        terminal.resize(columns);
        let line = format!("Task 3  {}  receiving           13 B", server.name());
        terminal.see(line[..line.len().min(usize::from(columns) - 1)].trim_end());
    }
    go_on.send(()).expect("the server");
    go_on.send(()).expect("the server");
    let left = terminal.finish();
    left.expect_lines(&["Task 2: failed: ", "Task ", "Task ", "Got 2 of 3 poems in "]);
}

#[test]
fn poems_on_the_terminal_itself_are_not_drawn_over() {
    for client in CLIENTS {
        let (stuck, _go_on) = in_two_halves();
        let quick = Server::poem("first line\nno newline at the end");
        let mut terminal = OnTerminal::start(program(client).args([quick.port(), stuck.port()]), true);
        terminal.see_row("Task 2  ");
        terminal.see("receiving");
        terminal.running.signal(Signal::SIGINT);
        let left = terminal.finish();
        left.expect_lines(&["first line", "no newline at the end", "Task 1: got 32 bytes", "Got 1 of 2 poems in "]);
    }
}

#[test]
fn there_are_no_bars_where_they_would_disturb() {
    let server = Server::poem("a poem\n");
    let cases: [(&[&str], bool); 5] = [
        (&["-q"], false),
        (&["-v"], false),
        (&["--log-format", "json"], false),
        (&["--ordered"], true),
        (&["-qo", "/dev/null/x"], false),
    ];
    for client in CLIENTS {
        for (options, stdout_too) in cases {
            let left = OnTerminal::start(program(client).args(options).arg(server.port()), stdout_too).finish();
            assert!(!left.shown.contains("\x1b[2K"), "{client} {options:?}: {:?}", left.shown);
        }
        let left = OnTerminal::start(program(client).env("TERM", "dumb").arg(server.port()), false).finish();
        assert!(!left.shown.contains("\x1b"), "{client}: {:?}", left.shown);
    }
}

#[test]
fn off_a_terminal_nothing_is_drawn_or_coloured() {
    let server = Server::poem("a poem\n");
    let (_held, refusing) = refusing_port();
    for client in CLIENTS {
        let finished = run(client, [server.port(), refusing.clone()]);
        assert!(!finished.stderr.contains('\x1b'), "{finished:?}");
    }
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let (_held, refusing) = refusing_port();
    let left = OnTerminal::start(program("get-poetry").arg(&refusing), false).finish();
    assert!(left.shown.contains("\x1b[31mTask 1: failed"), "{:?}", left.shown);
    let left = OnTerminal::start(program("get-poetry").env("NO_COLOR", "1").arg(&refusing), false).finish();
    assert!(!left.shown.contains("\x1b[31m") && left.screen.contains("Task 1: failed"), "{:?}", left.shown);
}
