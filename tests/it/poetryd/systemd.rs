//! Under systemd.

use std::fs;
use std::io::{self, Read, Write};
use std::iter;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

use super::{Place, activated, ask, example, poem, poetryd, refused, text};
use crate::harness::{Running, Service, eventually, finish, listener, path_of, read_out, reset};

/// A service manager that listens.
struct Manager {
    place: Place,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let place = Place::new();
        let socket = UnixDatagram::bind(place.path("notify")).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        Self { place, socket }
    }

    fn hear(&self) -> String {
        let mut message = [0; 1000];
        let length = loop {
            match self.socket.recv(&mut message) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.expect("a message"),
            }
        };
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    /// That it has heard no more than it was asked for.
    fn has_heard_all(&self) {
        self.socket.set_nonblocking(true).expect("set");
        assert_eq!(self.socket.recv(&mut [0]).expect_err("no more").kind(), io::ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).expect("set");
    }
}

#[test]
fn the_service_manager_hears_of_start_reload_and_stop() {
    let manager = Manager::new();
    let mut command = poetryd(&["fastpoetry", &poem()]);
    let service = Service::start(command.env("NOTIFY_SOCKET", manager.place.path("notify")));
    assert_eq!(manager.hear(), "READY=1\n");
    assert_eq!(service.fetch().expect("it is ready"), text());
    for _ in 0..2 {
        service.signal(Signal::SIGHUP);
        let reloading = manager.hear();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload").trim_end();
        assert!(time.parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
        assert_eq!(manager.hear(), "READY=1\n");
    }
    service.signal(Signal::SIGTERM);
    assert_eq!(manager.hear(), "STOPPING=1\n");
    assert_eq!(service.finish().code(), 0);
    manager.has_heard_all();
}

#[test]
fn a_service_manager_that_is_busy_hears_of_the_stop_all_the_same() {
    let manager = Manager::new();
    let mut command = poetryd(&["--pid-file", &manager.place.word("pid"), "fastpoetry", &poem()]);
    let service = Service::start(command.env("NOTIFY_SOCKET", manager.place.path("notify")));
    assert_eq!(manager.hear(), "READY=1\n");
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("set");
    let queued =
        iter::repeat_with(|| filler.send_to(b"x", manager.place.path("notify"))).take_while(Result::is_ok).count();
    service.signal(Signal::SIGTERM);
    // Everything has ended but what it has to say. One that does not wait to be heard is gone within this time.
    service.hear("Stopped fastpoetry");
    let start = Instant::now();
    while !service.has_ended() && start.elapsed() < Duration::from_millis(200) {
        thread::park_timeout(Duration::from_millis(1));
    }
    for _ in 0..queued {
        assert_eq!(manager.hear(), "x");
    }
    assert_eq!(manager.hear(), "STOPPING=1\n");
    assert_eq!(service.finish().code(), 0);
    manager.has_heard_all();
    assert!(!manager.place.path("pid").exists());
}

#[test]
fn a_reload_during_the_start_is_nothing_to_the_service_manager() {
    let manager = Manager::new();
    // Where it cannot say that it listens, it does not get ready.
    let (mut reader, mut full) = io::pipe().expect("a pipe");
    let capacity = fcntl(&full, FcntlArg::F_GETPIPE_SZ).expect("a pipe");
    let mut stuffing = vec![b'x'; usize::try_from(capacity).expect("a size")];
    full.write_all(&stuffing).expect("written");
    let mut command = poetryd(&["--pid-file", &manager.place.word("pid"), "transformedpoetry"]);
    command.env("NOTIFY_SOCKET", manager.place.path("notify")).stdout(full).stderr(Stdio::piped());
    let service = Running::start_as_is(&mut command);
    eventually("the pid", || manager.place.read("pid").ends_with('\n'));
    for _ in 0..2 {
        service.signal(Signal::SIGHUP);
        service.hear("Reloaded");
    }
    manager.has_heard_all();
    reader.read_exact(&mut stuffing).expect("read");
    assert_eq!(manager.hear(), "READY=1\n");
    service.signal(Signal::SIGTERM);
    assert_eq!(manager.hear(), "STOPPING=1\n");
    assert_eq!(service.finish().code(), 0);
    manager.has_heard_all();
}

#[test]
fn a_reload_that_ends_after_the_stop_is_nothing_to_the_service_manager() {
    let manager = Manager::new();
    let poem = manager.place.write("poem", "a poem");
    let mut command = poetryd(&["fastpoetry", "--num-bytes", "1", "--delay", "1h", "--grace", "1h", &poem]);
    let service = Service::start(command.env("NOTIFY_SOCKET", manager.place.path("notify")));
    assert_eq!(manager.hear(), "READY=1\n");
    // It holds up the end.
    let mut client = service.connect();
    client.read_exact(&mut [0]).expect("a poem");
    fs::remove_file(&poem).expect("removed");
    nix::unistd::mkfifo(Path::new(&poem), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    service.signal(Signal::SIGHUP);
    assert!(manager.hear().starts_with("RELOADING=1\n"));
    service.signal(Signal::SIGTERM);
    assert_eq!(manager.hear(), "STOPPING=1\n");
    fs::write(&poem, "another poem").expect("written");
    service.hear("Reloaded");
    // When this one is heard of, all of the first one is over.
    service.signal(Signal::SIGHUP);
    fs::write(&poem, "another poem").expect("written");
    service.hear("Reloaded");
    manager.has_heard_all();
    reset(client);
    assert_eq!(service.finish().code(), 0);
}

#[test]
fn what_cannot_say_where_it_listens_is_not_ready() {
    let manager = Manager::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("opened");
    let mut command = poetryd(&["transformedpoetry"]);
    command.env("NOTIFY_SOCKET", manager.place.path("notify")).stdout(full).stderr(Stdio::piped());
    refused(&Running::start_as_is(&mut command).finish(), 1, "cannot write stdout: no space left on device");
    manager.has_heard_all();
}

#[test]
fn the_watchdog_hears_again_and_again_that_it_is_alive() {
    let manager = Manager::new();
    let mut command = poetryd(&["transformedpoetry"]);
    command.env("NOTIFY_SOCKET", manager.place.path("notify")).env("WATCHDOG_USEC", "200000");
    let service = Service::start(command.env_remove("WATCHDOG_PID"));
    let (mut ready, mut alive) = (0, 0);
    while ready == 0 || alive < 3 {
        match manager.hear().as_str() {
            "READY=1\n" => ready += 1,
            "WATCHDOG=1\n" => alive += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(ready, 1);
    assert_eq!(service.stop().code(), 0);
}

#[test]
fn an_inherited_socket_goes_to_the_service_with_its_address() {
    let place = Place::new();
    let listener = listener(128);
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).expect("queued");
    let services = |port: u16| {
        let poem = place.write("poem.txt", "a poem\n");
        let text = format!("[[transformedpoetry]]\n[[fastpoetry]]\nfile = \"{poem}\"\nport = {port}\n");
        place.write("poetry.toml", &text)
    };
    let service = Service::start_several(&mut activated(&listener, &["--config", &services(address.port())]), 2);
    assert_eq!(service.addresses[1], address);
    assert_ne!(service.address, address);
    assert_eq!(read_out(client).expect("it came before the service"), b"a poem\n");
    assert_eq!(ask(service.address, "9:shout.abc,"), "3:ABC,");
    assert_eq!(service.stop().code(), 0);

    let for_nobody = finish(&mut activated(&listener, &["--config", &services(0)]));
    refused(&for_nobody, 1, &format!("the inherited socket {address} is for none of the services"));
}

#[test]
fn the_units_for_systemd_pass_its_own_check() {
    const TOOL: &str = "systemd-analyze";
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|directory| directory.join(TOOL).exists()) {
        writeln!(io::stderr(), "skipped: no {TOOL}").expect("told");
        return;
    }
    let place = Place::new();
    let docs = example();
    let mut command = Command::new(TOOL);
    command.args(["verify", "--man=no"]);
    for name in ["poetryd.service", "poetryd.socket"] {
        let unit = fs::read_to_string(docs.with_file_name(name)).expect("a unit");
        let program = path_of("poetryd");
        command.arg(place.write(name, &unit.replace("/usr/local/bin/poetryd", program.to_str().expect("UTF-8"))));
    }
    let finished = finish(&mut command);
    assert_eq!((finished.code(), finished.stderr.contains("poetryd")), (0, false), "{}", finished.stderr);
}
