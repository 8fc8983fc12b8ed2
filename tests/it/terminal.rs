//! What a terminal shows, on a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;

use crate::harness::{CLIENTS, Running, Server, program, read_out, send_whole};

/// A program whose stderr (and stdout, if wanted) is a terminal.
struct OnTerminal {
    running: Running,
    screen: mpsc::Receiver<Vec<u8>>,
    shown: Vec<u8>,
}

impl OnTerminal {
    fn start(command: &mut Command, stdout_too: bool) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal");
        let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        command.env("TERM", "xterm").stderr(slave(&pty.slave));
        command.stdout(if stdout_too { slave(&pty.slave) } else { Stdio::piped() });
        let running = Running::start_as_is(command);
        // Only the program holds the terminal now: its end is the end of what is shown.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        drop(pty.slave);
        let (show, screen) = mpsc::channel();
        let mut master = File::from(pty.master);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = master.read(&mut buffer) {
                if n == 0 || show.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { running, screen, shown: Vec::new() }
    }

    /// Waits until the terminal has been sent `part`.
    fn see(&mut self, part: &str) {
        while !self.text().contains(part) {
            match self.screen.recv_timeout(std::time::Duration::from_secs(60)) {
                Ok(bytes) => self.shown.extend(bytes),
                Err(error) => panic!("no '{part}' on the terminal ({error}): {:?}", self.text()),
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    fn finish(mut self) -> (crate::harness::Finished, String) {
        let finished = self.running.finish();
        while let Ok(bytes) = self.screen.recv() {
            self.shown.extend(bytes);
        }
        (finished, String::from_utf8_lossy(&self.shown).into_owned())
    }
}

const CLEAR_LINE: &str = "\x1b[2K";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// The bars are off the screen and the cursor is on it.
fn expect_cleared(shown: &str) {
    let last_bar = shown.rfind("receiving").expect("a bar");
    assert!(shown[last_bar..].contains(CLEAR_LINE), "{shown:?}");
    assert!(shown.rfind(SHOW_CURSOR) >= shown.rfind(HIDE_CURSOR), "{shown:?}");
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
        terminal.see("receiving");
        terminal.see("13 B");
        go_on.send(()).expect("the server");
        let (finished, shown) = terminal.finish();
        assert_eq!((finished.code(), &finished.stdout[..]), (0, &b"half a poem, and the rest\n"[..]), "{client}");
        assert!(!shown.contains("get poetry from"), "{shown:?}");
        assert!(shown.contains(&format!("Task 1: got 26 bytes of poetry from {} in ", server.name())), "{shown:?}");
        assert!(shown.contains("Got 1 poem in "), "{shown:?}");
        expect_cleared(&shown);
    }
}

#[test]
fn interrupted_bars_are_cleared() {
    for client in CLIENTS {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let (server, _go_on) = in_two_halves();
            let mut terminal = OnTerminal::start(program(client).arg(server.port()), false);
            terminal.see("receiving");
            terminal.running.signal(signal);
            let (finished, shown) = terminal.finish();
            assert_eq!(finished.code(), if signal == Signal::SIGINT { 130 } else { 143 });
            expect_cleared(&shown);
            assert!(shown.contains("Got 0 of 1 poem in "), "{shown:?}");
        }
    }
}

#[test]
fn failures_are_said_above_the_bars() {
    let (server, go_on) = in_two_halves();
    let (_held, refusing) = crate::harness::refusing_port();
    let mut terminal = OnTerminal::start(program("get-poetry").args([server.port(), refusing]), false);
    terminal.see("receiving");
    terminal.see("Task 2: failed: ");
    go_on.send(()).expect("the server");
    let (finished, shown) = terminal.finish();
    assert_eq!(finished.code(), 1);
    assert!(shown.contains("Got 1 of 2 poems in "), "{shown:?}");
    expect_cleared(&shown);
}

#[test]
fn poems_on_the_terminal_itself_are_not_drawn_over() {
    for client in CLIENTS {
        let stuck = Server::start(|_, mut stream| {
            stream.write_all(b"half").expect("a client");
            drop(read_out(stream));
        });
        let quick = Server::poem("no newline at the end");
        let mut terminal = OnTerminal::start(program(client).args([quick.port(), stuck.port()]), true);
        terminal.see("no newline at the end");
        terminal.see("Task 2  ");
        terminal.see("receiving");
        terminal.running.signal(Signal::SIGINT);
        let (_, shown) = terminal.finish();
        let after = shown.split("no newline at the end").nth(1).expect("the poem");
        assert!(after.starts_with("\r\n"), "{shown:?}");
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
            let (_, shown) = OnTerminal::start(program(client).args(options).arg(server.port()), stdout_too).finish();
            assert!(!shown.contains(CLEAR_LINE), "{client} {options:?}: {shown:?}");
        }
        let (_, shown) = OnTerminal::start(program(client).env("TERM", "dumb").arg(server.port()), false).finish();
        assert!(!shown.is_empty(), "{client}");
    }
}

#[test]
fn off_a_terminal_nothing_is_drawn_or_coloured() {
    let server = Server::poem("a poem\n");
    let (_held, refusing) = crate::harness::refusing_port();
    for client in CLIENTS {
        let finished = crate::harness::run(client, [server.port(), refusing.clone()]);
        assert!(!finished.stderr.contains('\x1b'), "{finished:?}");
    }
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let (_held, refusing) = crate::harness::refusing_port();
    let (_, shown) = OnTerminal::start(program("get-poetry").arg(&refusing), false).finish();
    assert!(shown.contains("\x1b[31mTask 1: failed"), "{shown:?}");
    let (_, shown) = OnTerminal::start(program("get-poetry").env("NO_COLOR", "1").arg(&refusing), false).finish();
    assert!(!shown.contains("\x1b[31m") && shown.contains("Task 1: failed"), "{shown:?}");
}
