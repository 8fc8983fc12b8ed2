//! As another user.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use super::{Place, is_root, own_interface, poem, poetryd, refused, status, tasks, text};
use crate::harness::{Service, address, eventually, fetch, finish, path_of};

#[test]
fn a_low_port_is_all_that_is_left_of_root() {
    if !is_root() {
        return;
    }
    let nobody = User::from_name("nobody").expect("users").expect("nobody");
    let place = Place::new();
    let poem = place.write("poem.txt", "old\n");
    let readable = |mode| fs::set_permissions(&poem, Permissions::from_mode(mode)).expect("set");
    readable(0o644);
    let interface = own_interface().to_string();
    let args = ["--user", "nobody", "--pid-file", &place.word("pid"), "fastpoetry", "--port", "79", "--iface"];
    let service = Service::start(poetryd(&args).args([&interface, &poem]));
    assert_eq!(service.address.to_string(), format!("{interface}:79"));
    assert_eq!(service.fetch().expect("a poem"), b"old\n");
    let tasks = tasks(service.pid());
    assert!(tasks.len() > 1);
    for task in &tasks {
        assert_eq!(status(task, "Uid"), vec![nobody.uid.to_string(); 4]);
        assert_eq!(status(task, "Gid"), vec![nobody.gid.to_string(); 4]);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(task, set), ["0000000000000000"], "{set}");
        }
        assert_eq!(status(task, "NoNewPrivs"), ["1"]);
    }

    fs::write(&poem, "for root\n").expect("written");
    readable(0o600);
    service.signal(Signal::SIGHUP);
    service.hear(&format!("Cannot read {poem} again: permission denied; keeping the poem as it was"));
    assert_eq!(service.fetch().expect("a poem"), b"old\n");
    fs::write(&poem, "new\n").expect("written");
    readable(0o644);
    service.signal(Signal::SIGHUP);
    service.hear(&format!("Read {poem} again: 4 bytes"));
    assert_eq!(service.fetch().expect("a poem"), b"new\n");
    assert_eq!(service.stop().code(), 0);
    assert_eq!(place.read("pid"), "", "it cannot be removed any more");
}

#[test]
fn a_log_file_of_a_service_that_was_root_is_its_user_s() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let log = place.word("log");
    let service = Service::start(&mut poetryd(&["--user", "nobody", "--log-file", &log, "transformedpoetry"]));
    // The name is gone, and the directory is root's: it can write, but not begin a new file.
    fs::rename(&log, place.path("moved")).expect("moved");
    service.signal(Signal::SIGHUP);
    eventually("a complaint", || {
        place.read("moved").contains("Cannot open the log file again: permission denied; going on in the old one")
    });
    fs::rename(place.path("moved"), &log).expect("moved back");
    service.signal(Signal::SIGHUP);
    eventually("a reload", || place.read("log").contains(" INFO  Reloaded\n"));
    let log = place.read("log");
    let outcomes = ["Nothing is reloaded: all stays as it was", "Reloaded"].map(|outcome| log.matches(outcome).count());
    assert_eq!(outcomes, [1, 1], "{log}");
    assert_eq!(place.read("log").matches("Cannot").count(), 1);
    assert_eq!(service.stop().stderr, "");
}

#[test]
fn a_service_in_the_background_can_be_another_user_s() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let (started, service) = place.start(&["--user", "nobody", "fastpoetry", &poem()]);
    assert_eq!(fetch(address(&String::from_utf8_lossy(&started.stdout))).expect("a poem"), text());
    let process = PathBuf::from(format!("/proc/{}", service.pid));
    assert!(status(&process, "Uid").iter().all(|uid| uid != "0"));
    service.stop();
    assert_eq!(place.read("pid"), "");
    assert!(place.read("log").contains("Stopped fastpoetry on "), "{}", place.read("log"));
}

#[test]
fn users_that_nobody_can_become_are_refused() {
    let wrong = "cannot become another user: ";
    for (args, why) in [
        (&["--user", "root"][..], "user 'root': that is root"),
        (&["--user", "0"], "user '0': that is root"),
        (&["--user", "no-such-user"], "there is no user named 'no-such-user'"),
        (&["--user", "nobody", "--group", "no-such-group"], "there is no group named 'no-such-group'"),
        (&["--group", "nogroup"], "a group alone is not enough: name a user, too"),
    ] {
        refused(&finish(poetryd(args).arg("transformedpoetry")), 1, &format!("{wrong}{why}"));
        let in_background = finish(poetryd(&["--daemon"]).args(args).arg("transformedpoetry"));
        refused(&in_background, 1, &format!("{wrong}{why}"));
    }
}

#[test]
fn only_root_can_become_another_user() {
    let place = Place::new();
    let mut command = poetryd(&["--user", "nobody", "transformedpoetry"]);
    if geteuid().is_root() {
        // To where everybody can start it; by a process that nobody inherits the open file from.
        finish(Command::new("cp").arg(path_of("poetryd")).arg(place.path("poetryd")));
        command = Command::new(place.path("poetryd"));
        command.args(["--user", "nobody", "transformedpoetry"]).uid(65534).gid(65534).stdin(Stdio::null());
    }
    refused(&finish(&mut command), 1, "cannot become another user: only root can");
}
