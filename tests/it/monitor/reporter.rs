//! Servers that report themselves.

use super::*;
use crate::harness::poem_file;

#[test]
fn a_server_says_what_it_does_and_what_is_done_with_it() {
    let monitor = monitor(&[]);
    let mut reader = Reader::new(&monitor, "/feed", "");
    let (port, poem) = (monitor.addresses[1].port().to_string(), poem_file("sera.txt"));
    let server = Service::start(program("fastpoetry").args(["--monitor", &port]).arg(&poem));
    let name = format!("fastpoetry {}", server.address);
    reader.until(&format!("\"{name}\""));
    let bytes = crate::harness::fetch(server.address).expect("a poem").len();
    let mut read_until = |what: &dyn Fn(&(String, String, Value)) -> bool| {
        while !reader.events().iter().any(what) {
            assert!(reader.read(), "{}", reader.text);
        }
    };
    read_until(&|(_, _, sample)| {
        sample["accepted"] == 1
            && sample["sent_bytes"] == bytes
            && sample["cpu"].is_f64()
            && sample["mem"].as_f64() > Some(0.5)
    });
    server.signal(Signal::SIGHUP);
    read_until(&|(event, _, mark)| event == "mark" && mark["what"] == "reload" && mark["color"] == *name);
    assert_eq!(server.stop().code(), 0);
    read_until(&|(event, _, mark)| event == "mark" && mark["what"] == "stop");
    // Its clock is ours.
    assert!(!reader.text.contains("skew"));
}

#[test]
fn whether_anybody_listens_makes_no_difference_and_whoever_comes_again_hears_it_again() {
    let mut monitor = monitor(&[]);
    let port = monitor.addresses[1].port().to_string();
    let broker = Service::start(program("poetry-broker").args(["--monitor", &port, "--monitor-as", "letters"]));
    for _ in 0..3 {
        let mut reader = Reader::new(&monitor, "/feed", "");
        reader.until("\"letters\"");
        reader.until("\"queue_bytes\":0");
        monitor.signal(Signal::SIGKILL);
        let _ = monitor.finish();
        broker.hear("trying again");
        drop(connect(broker.address));
        monitor = Service::start_several(program("poetry-monitor").args(["-v", "--collect", &port]), 2);
    }
    // Somebody who never reads, and never says anything either.
    drop(monitor);
    let silent = std::net::TcpListener::bind(("127.0.0.1", port.parse().expect("a port"))).expect("it is free");
    let _held = silent.accept().expect("it tries again");
    let start = Instant::now();
    assert_eq!(broker.stop().code(), 0);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn services_of_one_process_are_sources_of_one_connection() {
    let monitor = monitor(&[]);
    let port = monitor.addresses[1].port().to_string();
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("poetryd.toml");
    let text = format!("monitor = {port}\n[[transformedpoetry]]\n[[poetry-proxy]]\nhttp = true\n");
    fs::write(&file, text).expect("written");
    let daemon = Service::start_several(program("poetryd").arg("--config").arg(&file), 2);
    let mut reader = Reader::new(&monitor, "/feed", "");
    reader.until(&format!("transformedpoetry {}", daemon.addresses[0]));
    reader.until(&format!("poetry-proxy {}", daemon.addresses[1]));
    reader.until("\"hits\":0");
    daemon.signal(Signal::SIGHUP);
    reader.until("\"what\":\"cache cleared\"");
    assert_eq!(daemon.stop().code(), 0);
    reader.until("\"what\":\"stop\"");
    let finished = monitor.stop();
    assert_eq!(finished.stderr.matches(" reports!").count(), 1, "{}", finished.stderr);
}

#[test]
fn it_speaks_to_subscribers_of_others_and_only_of_what_they_want() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let _server = Service::start(program("transformedpoetry").args(["--monitor", &port]));
    let (mut stream, _) = listener.accept().expect("it connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(&[&GREETING[..], &ready(Role::Sub), &subscribe(b"nothing")].concat()).expect("sent");
    let hello = [&GREETING[..], &ready(Role::Pub)].concat();
    let mut said = vec![0; hello.len()];
    stream.read_exact(&mut said).expect("a hello");
    assert_eq!(said, hello);
    // A PING is answered while nothing is wanted.
    stream.write_all(b"\x04\x0a\x04PING\x00\x0aabc").expect("sent");
    let mut pong = vec![0; 10];
    stream.read_exact(&mut pong).expect("a PONG");
    assert_eq!(pong, b"\x04\x08\x04PONGabc");
    stream.write_all(&subscribe(b"{\"accepted\":0,")).expect("sent");
    let mut frame = [0; 3];
    stream.read_exact(&mut frame).expect("a sample");
    assert!(frame[0] == 0 && frame[2] == b'{', "{frame:?}");
}

#[test]
fn trouble_is_marked_where_it_begins() {
    let monitor = monitor(&[]);
    let mut reader = Reader::new(&monitor, "/feed", "");
    let (port, poem) = (monitor.addresses[1].port().to_string(), poem_file("sera.txt"));
    let start = |name: &str, flags: &[&str]| {
        Service::start(program(name).args(["--monitor", &port, "--monitor-as", name]).args(flags))
    };
    let poem = poem.to_str().expect("text");
    let slow = start("slowpoetry", &["--delay", "0", "--fail-first", "9", poem]);
    let fast = start("fastpoetry", &["--fail-first", "9", poem]);
    let chaos = start("poetry-chaos", &["--behavior", "100:abort", &fast.address.port().to_string()]);
    for name in ["slowpoetry", "fastpoetry", "poetry-chaos"] {
        reader.until(&format!("\"{name}\""));
    }
    for server in [&slow, &fast, &chaos] {
        let _ = crate::harness::fetch(server.address);
    }
    for (name, what) in [("slowpoetry", "cuts begin"), ("fastpoetry", "cuts begin"), ("poetry-chaos", "trouble begins")]
    {
        while !reader.events().iter().any(|(_, _, mark)| mark["what"] == what && mark["color"] == name) {
            assert!(reader.read(), "{}", reader.text);
        }
    }
}
