//! Many poems at once.

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::thread::{self, JoinHandle};

use poetry_suite::cli::open_files;

use crate::harness::{finish, listener, path_of, read_out};

/// A server that serves nobody before it has `clients` clients.
fn gather(clients: usize, poem: Vec<u8>) -> (JoinHandle<()>, String) {
    open_files::raise_limit();
    let listener: TcpListener = listener(4096);
    let port = listener.local_addr().expect("bound").port().to_string();
    let serve = move || {
        let streams: Vec<_> = listener.incoming().take(clients).map(|stream| stream.expect("accepted")).collect();
        for mut stream in &streams {
            stream.write_all(&poem).expect("a client");
            stream.shutdown(Shutdown::Write).expect("a client");
        }
        for stream in streams {
            read_out(stream).expect("a polite client");
        }
    };
    (thread::spawn(serve), port)
}

/// Runs a client with so many poems under the usual soft limit of open files.
fn fetch(client: &str, poems: usize, options: &str) -> crate::harness::Finished {
    let (server, port) = gather(poems, vec![b'x'; 1_024]);
    let addresses = vec![port; poems].join(" ");
    let script = format!("ulimit -Sn 1024; exec '{}' {options} {addresses}", path_of(client).display());
    let finished = finish(Command::new("sh").args(["-c", &script]));
    server.join().expect("the server");
    finished
}

#[test]
fn a_thousand_poems_at_once_in_one_thread() {
    for client in ["get-poetry", "get-poetry-select"] {
        let finished = fetch(client, 1_000, "");
        assert_eq!((finished.code(), finished.stdout.len()), (0, 1_024_000), "{client}: {}", finished.stderr);
    }
}

#[test]
fn three_hundred_threads() {
    let finished = fetch("get-poetry-threads", 300, "");
    assert_eq!((finished.code(), finished.stdout.len()), (0, 300 * 1_024), "{}", finished.stderr);
}

#[test]
fn more_poems_than_open_files_wait_for_their_turn() {
    for client in ["get-poetry", "get-poetry-select", "get-poetry-threads"] {
        // 60 open files, 32 of them for other things: the server sees 28 at a time.
        let server = crate::harness::Server::poem("a poem\n");
        let addresses = vec![server.port(); 200].join(" ");
        let script = format!("ulimit -n 60; exec '{}' {addresses}", path_of(client).display());
        let finished = finish(Command::new("sh").args(["-c", &script]));
        assert_eq!((finished.code(), finished.stdout.len()), (0, 200 * 7), "{client}: {}", finished.stderr);
        assert!(finished.has_line("At most 28 poems at once: the limit of open files is 60"), "{}", finished.stderr);
    }
}

#[test]
fn output_files_count_as_open_files() {
    let directory = tempfile::tempdir().expect("a directory");
    for client in ["get-poetry", "get-poetry-select", "get-poetry-threads"] {
        let server = crate::harness::Server::poem("a poem\n");
        let addresses = vec![server.port(); 100].join(" ");
        let (program, path) = (path_of(client), directory.path().join(client));
        let script = format!("ulimit -n 60; exec '{}' -o '{}' {addresses}", program.display(), path.display());
        let finished = finish(Command::new("sh").args(["-c", &script]));
        assert_eq!(finished.code(), 0, "{client}: {}", finished.stderr);
        assert_eq!(crate::harness::contents(&path).len(), 100);
    }
}
