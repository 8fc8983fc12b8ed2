//! The async server: every client gets every byte or a reset, however many there are and whatever they do.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use poetry_suite::cli::open_files;
use socket2::{Domain, SockRef, Socket, Type};

use crate::harness::{
    CLIENTS, LIMIT, PATIENCE, Running, Service, contents, eventually, finish, large_poem, path_of, poem_file, program,
    read_out, read_some, read_steadily, replace, reset, run,
};

const LARGE: usize = 64 << 20;

fn science() -> PathBuf {
    poem_file("science.txt")
}

fn science_text() -> Vec<u8> {
    fs::read(science()).expect("the poem")
}

fn written(directory: &Path, poem: &[u8]) -> PathBuf {
    let path = directory.join("poem.txt");
    fs::write(&path, poem).expect("written");
    path
}

/// A client in the middle of a large poem: it has read a byte and reads no further.
fn stalled(server: &Service) -> TcpStream {
    let mut client = server.connect();
    client.read_exact(&mut [0]).expect("the first byte");
    client
}

fn expect_reset(client: TcpStream) {
    let read = read_out(client).map(|poem| poem.len());
    assert_eq!(read.expect_err("half a poem").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn the_address_line_names_the_file_and_the_real_port() {
    let server = Service::fast(&science(), [""; 0]);
    assert_eq!(server.line, format!("Serving {} on 127.0.0.1:{}.\n", science().display(), server.port()));
}

#[test]
fn poems_arrive_byte_for_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let large: Vec<u8> = (0..5_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for poem in [b"".to_vec(), b"\n".to_vec(), (0..=255).collect(), b"\r\n".to_vec(), large] {
        let server = Service::fast(&written(directory.path(), &poem), [""; 0]);
        for client in CLIENTS {
            let finished = run(client, ["-j", "2", &server.port(), &server.port(), &server.port()]);
            assert!(finished.stdout == poem.repeat(3), "{client}: {} bytes", poem.len());
            assert_eq!(finished.code(), 0);
        }
        assert!(server.fetch().expect("a poem") == poem);
    }
}

#[test]
fn a_trickle_is_the_twin_of_slowpoetry() {
    // Slow enough that a busy machine still reads some piece by itself.
    let server = Service::fast(&science(), ["--delay", "20ms"]);
    for client in CLIENTS {
        let finished = run(client, ["-v", &server.port(), &server.port()]);
        assert_eq!(finished.stdout, science_text().repeat(2));
        assert!(finished.has_timed_line(&format!("Task 2: got 10 bytes of poetry from 127.0.0.1:{}", server.port())));
    }
}

#[test]
fn a_trickle_is_for_many_at_once() {
    let server = Service::fast(&science(), ["--delay", "1h", "--num-bytes", "10"]);
    let mut clients: Vec<TcpStream> = (0..500).map(|_| server.connect()).collect();
    for client in &mut clients {
        let mut piece = [0; 10];
        client.read_exact(&mut piece).expect("the first piece");
        assert_eq!(&piece, b"Sonnet - T");
    }
}

#[test]
fn clients_that_talk_or_half_close_get_every_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let large = large_poem(directory.path());
    for (file, len) in [(science(), 653), (large, LARGE)] {
        let server = Service::fast(&file, [""; 0]);
        for talk in [b"GET / HTTP/1.0\r\n\r\n".to_vec(), vec![b'?'; 1 << 20]] {
            let client = server.connect();
            let mut writer = client.try_clone().expect("a clone");
            let talking = thread::spawn(move || writer.write_all(&talk));
            assert_eq!(read_out(client).expect("no reset").len(), len);
            talking.join().expect("talker").expect("heard to the end");
        }
        let client = server.connect();
        client.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(read_out(client).expect("no reset").len(), len);
    }
}

#[test]
fn a_client_that_never_closes_is_let_go() {
    let server = Service::fast(&science(), [""; 0]);
    let mut client = server.connect();
    client.read_to_end(&mut Vec::new()).expect("a poem");
    // As long as the server lingers it hears what is said; then it answers with a reset.
    eventually("a reset", || (&client).write_all(b"are you there?").is_err());
}

#[test]
fn beyond_the_most_clients_others_wait_and_nobody_is_dropped() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Service::fast(&large_poem(directory.path()), ["--max-clients", "2"]);
    let (first, second) = (stalled(&server), stalled(&server));
    let third = server.connect();
    third.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    assert_eq!(read_some(&third, &mut [0]), Err(io::ErrorKind::WouldBlock), "nothing yet");
    third.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(read_out(first).expect("the rest").len(), LARGE - 1);
    assert_eq!(read_out(third).expect("a poem").len(), LARGE);
    assert_eq!(read_out(second).expect("the rest").len(), LARGE - 1);
}

#[test]
fn a_single_place_serves_many_one_after_another() {
    let server = Service::fast(&science(), ["--max-clients", "1"]);
    for client in CLIENTS {
        let finished = run(client, vec![server.port(); 50]);
        assert_eq!(finished.stdout, science_text().repeat(50), "{finished:?}");
    }
}

#[test]
fn a_client_that_never_reads_is_dropped_and_others_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Service::fast(&large_poem(directory.path()), ["--write-timeout", LIMIT]);
    let never_reads = server.connect();
    server.hear("it took nothing for 2s");
    expect_reset(never_reads);
    assert_eq!(server.fetch().expect("a poem").len(), LARGE);
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Service::fast(&large_poem(directory.path()), ["--write-timeout", "1s"]);
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(64 * 1024).expect("a buffer");
        socket.connect(&server.address.into()).expect("a server");
        TcpStream::from(socket)
    };
    // At this pace the kernel has long not as much room as it waits for before it says that there is some.
    let pause = |received| Duration::from_millis(if received < 2_000_000 { 100 } else { 0 });
    assert_eq!(read_steadily(connect, 32 * 1024, pause, Duration::from_millis(500)), (LARGE, Ok(0)));
}

#[test]
fn a_client_that_takes_everything_at_once_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Service::fast(&large_poem(directory.path()), ["--delay", "0", "--num-bytes", "10", "--grace", "0"]);
    let greedy: Vec<_> =
        (0..4).map(|_| server.connect()).map(|client| thread::spawn(|| read_out(client).is_ok())).collect();
    for _ in 0..8 {
        server.connect().read_exact(&mut [0; 10]).expect("a piece");
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.finish().code(), 0);
    for client in greedy {
        client.join().expect("a client");
    }
}

#[test]
fn a_place_is_free_when_its_client_is_gone_however_slow_the_schedule() {
    let server = Service::fast(&science(), ["--max-clients", "1", "--delay", "1h"]);
    for _ in 0..3 {
        let mut client = server.connect();
        client.read_exact(&mut [0; 10]).expect("a piece");
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
    }
}

#[test]
fn two_thousand_stalled_clients_harm_nobody() {
    open_files::raise_limit();
    let directory = tempfile::tempdir().expect("a directory");
    let poem = vec![b'x'; 8 << 20];
    let server = Service::fast(&written(directory.path(), &poem), ["--write-timeout", "0"]);
    let stalled: Vec<TcpStream> = (0..2_000).map(|_| server.connect()).collect();
    for _ in 0..3 {
        assert!(server.fetch().expect("a poem") == poem);
    }
    drop(stalled);
    assert!(server.fetch().expect("a poem") == poem);
}

#[test]
fn two_thousand_clients_that_talk_nonsense_get_the_poem() {
    let server = Service::fast(&science(), [""; 0]);
    let (address, poem) = (server.address, &science_text());
    thread::scope(|scope| {
        for seed in 0..8 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..250 {
                    let mut client = TcpStream::connect(address).expect("a server");
                    let nonsense: Vec<u8> = (0..random.usize(0..2_000)).map(|_| random.u8(..)).collect();
                    client.write_all(&nonsense).expect("heard");
                    assert!(read_out(client).expect("no reset") == *poem, "seed {seed}");
                }
            });
        }
    });
}

#[test]
fn however_small_the_reads_the_poem_is_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let poem: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let server = Service::fast(&written(directory.path(), &poem), [""; 0]);
    thread::scope(|scope| {
        for size in 1..=64 {
            let (poem, address) = (&poem, server.address);
            scope.spawn(move || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                // The kernel makes 2,304 bytes of it: the server's writes are cut in many places.
                socket.set_recv_buffer_size(1).expect("a small buffer");
                socket.connect(&address.into()).expect("a server");
                let client = TcpStream::from(socket);
                let (mut received, mut buffer) = (Vec::new(), vec![0; size]);
                loop {
                    match read_some(&client, &mut buffer).expect("no reset") {
                        0 => break,
                        n => received.extend_from_slice(&buffer[..n]),
                    }
                }
                assert!(received == *poem, "reads of {size} bytes");
            });
        }
    });
}

#[test]
fn a_reload_is_for_those_who_come_after_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = large_poem(directory.path());
    let server = Service::fast(&path, [""; 0]);
    let under_way = stalled(&server);
    replace(&path, b"new\n");
    assert_eq!(server.fetch().expect("the old poem").len(), LARGE);
    server.signal(Signal::SIGHUP);
    server.hear("again: 4 bytes");
    assert_eq!(server.fetch().expect("the new poem"), b"new\n");
    assert_eq!(read_out(under_way).expect("the old poem"), vec![b'x'; LARGE - 1]);
}

#[test]
fn a_poem_that_cannot_be_read_again_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = written(directory.path(), b"old\n");
    let server = Service::fast(&path, [""; 0]);
    fs::remove_file(&path).expect("removed");
    server.signal(Signal::SIGHUP);
    server.hear("no such file or directory; keeping the poem as it was");
    assert_eq!(server.fetch().expect("a poem"), b"old\n");
    fs::create_dir(&path).expect("made");
    server.signal(Signal::SIGHUP);
    server.hear("is a directory; keeping the poem as it was");
    assert_eq!(server.fetch().expect("a poem"), b"old\n");
}

#[test]
fn what_happens_to_the_file_is_nothing_to_those_being_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let spoilers: [fn(&Path); 3] = [
        |path| fs::write(path, "short").expect("truncated"),
        |path| replace(path, b"another poem"),
        |path| fs::remove_file(path).expect("removed"),
    ];
    for spoil in spoilers {
        let path = large_poem(directory.path());
        let server = Service::fast(&path, [""; 0]);
        let under_way = stalled(&server);
        spoil(&path);
        assert_eq!(read_out(under_way).expect("the whole poem").len(), LARGE - 1);
        assert_eq!(server.fetch().expect("the whole poem").len(), LARGE);
    }
}

#[test]
fn five_hundred_fetches_while_two_poems_change_places() {
    open_files::raise_limit();
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two) = (b"one\n".repeat(100_000), b"zwei\n".repeat(90_000));
    let path = written(directory.path(), &one);
    let server = Service::fast(&path, [""; 0]);
    let under_way: Vec<(Running, PathBuf)> = CLIENTS
        .iter()
        .map(|client| {
            let output = directory.path().join(client);
            let mut command = program(client);
            command.arg("-q").arg("-o").arg(&output).args(vec![server.port(); 125]);
            (Running::start(&mut command), output)
        })
        .collect();
    for round in 0..20 {
        replace(&path, if round % 2 == 0 { &two } else { &one });
        server.signal(Signal::SIGHUP);
        let poem = server.fetch().expect("a poem");
        assert!(poem == one || poem == two, "a mixture");
    }
    for (running, output) in under_way {
        let finished = running.finish();
        assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""));
        let poems = contents(&output);
        assert_eq!(poems.len(), 125);
        assert!(poems.iter().all(|(_, poem)| *poem == one || *poem == two), "a mixture");
    }
}

#[test]
fn idle_it_stops_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Service::fast(&science(), ["--grace", "1h"]);
        server.signal(signal);
        assert_eq!(server.finish().code(), 0);
    }
}

#[test]
fn while_stopping_it_finishes_its_clients_and_refuses_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Service::fast(&large_poem(directory.path()), ["--grace", "1h", "--max-clients", "2"]);
    let served = [stalled(&server), stalled(&server)];
    let queued = server.connect();
    server.signal(Signal::SIGTERM);
    assert!(read_out(queued).is_err(), "nobody will come for it");
    let refused = || TcpStream::connect(server.address).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    eventually("a closed door", refused);
    for client in served {
        assert_eq!(read_out(client).expect("the rest").len(), LARGE - 1);
    }
    let finished = server.finish();
    assert_eq!(finished.code(), 0);
    assert!(finished.stderr.contains("Stopped: 2 clients served, 0 lost, 0 of them reset at the end"), "{finished:?}");
}

#[test]
fn the_end_of_the_grace_time_resets_those_that_are_left() {
    let directory = tempfile::tempdir().expect("a directory");
    for options in [&[][..], &["--delay", "1h"]] {
        let server = Service::fast(&large_poem(directory.path()), [&["--grace", "50ms"], options].concat());
        let clients = [stalled(&server), stalled(&server), stalled(&server)];
        server.signal(Signal::SIGTERM);
        // Whoever reads again before that may get the rest in time.
        assert_eq!(server.finish().code(), 0);
        for client in clients {
            expect_reset(client);
        }
    }
}

#[test]
fn a_second_signal_skips_the_grace_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Service::fast(&large_poem(directory.path()), ["--grace", "1h"]);
    let client = stalled(&server);
    server.signal(Signal::SIGTERM);
    // The first signal has done its work when the door is closed.
    eventually("a closed door", || TcpStream::connect(server.address).is_err());
    server.signal(Signal::SIGINT);
    expect_reset(client);
    assert_eq!(server.finish().code(), 0);
}

#[test]
fn out_of_descriptors_it_waits_and_recovers() {
    let directory = tempfile::tempdir().expect("a directory");
    let large = large_poem(directory.path());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let server = Service::fast(&large, ["-v"]);
    // When it serves, it has looked at the limit, and keeps within that; this one is lower.
    drop(stalled(&server));
    let files = 24 + 8 * workers;
    let (pid, limit) = (server.pid().to_string(), format!("--nofile={files}:{files}"));
    assert_eq!(finish(Command::new("prlimit").args(["--pid", &pid, &limit])).code(), 0);
    let start = Instant::now();
    let clients: Vec<TcpStream> = (0..files + 20).map(|_| server.connect()).collect();
    server.hear("Cannot accept clients: too many open files");
    drop(clients);
    let poem = server.fetch();
    let finished = server.stop();
    assert_eq!(poem.expect(&finished.stderr).len(), LARGE);
    assert_eq!(finished.code(), 0);
    // It does not complain ten times a second, nor each of its workers for itself.
    assert!(
        finished.stderr.matches("Cannot accept").count() as u64 <= 1 + start.elapsed().as_secs() / 10,
        "{finished:?}"
    );
}

#[test]
fn within_its_limit_of_descriptors_it_keeps_some_and_never_runs_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let large = large_poem(directory.path());
    // It needs some for each of its workers before it has one for a client.
    let files = 24 + 8 * thread::available_parallelism().map_or(1, usize::from);
    let script = format!("ulimit -n {files}; exec '{}' '{}'", path_of("fastpoetry").display(), large.display());
    let server = Service::start(Command::new("sh").args(["-c", &script]));
    server.hear(&format!("not 10000: the limit of open files is {files}"));
    let clients: Vec<TcpStream> = (0..files + 20).map(|_| server.connect()).collect();
    // As many as there is room for are served, and it can read its poem again all the same.
    let open = || fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("a process").count();
    eventually("a full house", || open() >= files - 2);
    server.signal(Signal::SIGHUP);
    server.hear("again: 67108864 bytes");
    assert!(open() < files);
    drop(clients);
    assert_eq!(server.fetch().expect("a poem").len(), LARGE);
    assert!(!server.stop().stderr.contains("Cannot"));
}

#[test]
fn a_taken_port_is_one_line_whoever_has_it() {
    for other in ["slowpoetry", "fastpoetry"] {
        let taken = Service::start(program(other).arg(science()));
        let finished = run("fastpoetry", ["-q", "--port", &taken.port(), science().to_str().expect("UTF-8")]);
        let expected = format!("fastpoetry: cannot listen on {}: address already in use", taken.address);
        assert_eq!(finished.complaint(), expected);
        assert_eq!((finished.code(), finished.stdout.len()), (1, 0));
    }
}

#[test]
fn of_several_started_at_once_one_has_the_port() {
    // Where no other test has ports.
    let interface = Ipv4Addr::from_bits(Ipv4Addr::new(127, 128, 0, 0).to_bits() + process::id()).to_string();
    for port in 10_000..10_005 {
        let address = ["--iface", &interface, "--port", &port.to_string()];
        let servers: Vec<Running> =
            (0..4).map(|_| Running::start(program("fastpoetry").args(address).arg(science()))).collect();
        eventually("only one left", || servers.iter().filter(|server| !server.has_ended()).count() == 1);
        let (losers, winners): (Vec<_>, Vec<_>) = servers.into_iter().partition(Running::has_ended);
        for loser in losers {
            let finished = loser.finish();
            assert!(finished.complaint().ends_with("address already in use"), "{finished:?}");
            assert_eq!((finished.code(), finished.stdout.len()), (1, 0));
        }
        for winner in winners {
            assert!(TcpStream::connect((interface.as_str(), port)).is_ok());
            winner.signal(Signal::SIGTERM);
            assert_eq!(winner.finish().code(), 0);
        }
    }
}

#[test]
fn a_server_that_cannot_have_its_workers_says_so_and_ends() {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes = BTreeSet::new();
    for files in 5..=5 + 8 * workers {
        let script =
            format!("ulimit -n {files}; exec '{}' -q '{}'", path_of("fastpoetry").display(), science().display());
        let (reader, its_stdout) = io::pipe().expect("a pipe");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdout(its_stdout).stderr(Stdio::piped());
        let running = Running::start_as_is(&mut command);
        drop(command);
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).expect("stdout");
        let serves = !line.is_empty();
        if serves {
            running.signal(Signal::SIGTERM);
        }
        let finished = running.finish();
        if !serves {
            let too_few = ["too many open files".to_owned(), format!("{files}, which leaves none for a client")];
            assert!(too_few.iter().any(|why| finished.complaint().ends_with(why)), "{finished:?}");
        }
        assert_eq!(finished.code(), i32::from(!serves), "{files} files: {finished:?}");
        outcomes.insert(serves);
    }
    assert_eq!(outcomes, BTreeSet::from([false, true]), "both ends of the range");
}

#[test]
fn a_poem_that_never_comes_does_not_hold_up_the_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    for signals in [&[Signal::SIGTERM][..], &[Signal::SIGINT, Signal::SIGINT]] {
        let running = Running::start(program("fastpoetry").args(["--grace", "100ms"]).arg(&pipe));
        // It has said nothing, and will not; the signals are taken note of as soon as they are blocked.
        eventually("the signals blocked", || blocks_signals(running.pid()));
        for &signal in signals {
            running.signal(signal);
        }
        assert_eq!(running.finish().code(), 0);
    }
}

/// Whether a process has begun to keep signals back, see proc_pid_status(5).
fn blocks_signals(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask");
    u64::from_str_radix(mask.trim(), 16).expect("hexadecimal") != 0
}

#[test]
fn a_poem_that_cannot_be_read_is_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    let finished = run("fastpoetry", [path]);
    assert_eq!(finished.complaint(), format!("fastpoetry: cannot serve {path}: is a directory"));
    assert_eq!((finished.code(), finished.stdout.len()), (1, 0));
}

#[test]
fn a_trickling_client_that_leaves_gives_its_place_to_the_next() {
    let poem = poem_file("science.txt");
    let args = ["--max-clients", "1", "--delay", "50ms", "--num-bytes", "1"];
    for leave in [drop as fn(TcpStream), reset] {
        let service = Service::fast(&poem, args);
        let mut first = service.connect();
        first.read_exact(&mut [0]).expect("a byte");
        let mut second = service.connect();
        leave(first);
        // It hears the server only when the first one's place is free.
        second.read_exact(&mut [0]).expect("a byte");
    }
}

#[test]
fn trickling_clients_are_reset_and_counted_when_the_server_stops() {
    let poem = poem_file("science.txt");
    let service = Service::fast(&poem, ["--delay", "50ms", "--num-bytes", "1", "--grace", "0"]);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.read_exact(&mut [0; 2]).expect("two bytes");
    }
    let finished = service.stop();
    assert!(
        finished.stderr.contains("Stopped: 0 clients served, 20 lost, 20 of them reset at the end"),
        "{finished:?}"
    );
    for client in clients {
        assert_eq!(read_out(client).expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
    }
}
