//! One program with its own words.

use super::{Place, ask, poem, poetryd, refused};
use crate::harness::{Service, finish, program, refusing_port, run};

#[test]
fn a_program_serves_the_same_under_poetryd() {
    let poem = poem();
    for args in [&["fastpoetry", &poem][..], &["fastpoetry", "--num-bytes", "100", "--delay", "1ms", &poem]] {
        let alone = Service::start(program(args[0]).args(&args[1..]));
        let under = Service::start(&mut poetryd(args));
        assert_eq!(under.line, alone.line.replace(&alone.port(), &under.port()));
        assert_eq!(under.fetch().expect("a poem"), alone.fetch().expect("a poem"));
        assert_eq!(under.stop().code(), 0);
    }
    let under = Service::start(&mut poetryd(&["transformedpoetry"]));
    assert!(under.line.starts_with("Serving transforms on 127.0.0.1:"), "{}", under.line);
    assert_eq!(ask(under.address, "27:cummingsify.HERE IS MY POEM,"), "15:here is my poem,");
}

#[test]
fn an_errand_of_a_program_is_done_instead_of_serving() {
    for (name, args) in [("transformedpoetry", &["--list"][..]), ("fastpoetry", &["--rehearse", "2", &poem()])] {
        let alone = run(name, args);
        let under = finish(poetryd(&[name]).args(args));
        assert_eq!((under.code(), under.stderr.as_str()), (0, ""), "{under:?}");
        assert!(!under.stdout.is_empty() && under.stdout == alone.stdout, "{under:?}");
    }
}

#[test]
fn a_program_can_be_checked() {
    let (_held, taken) = refusing_port();
    let checked = run("poetryd", ["--check", "fastpoetry", "--port", &taken, &poem()]);
    assert_eq!((checked.code(), checked.stdout, checked.stderr), (0, vec![], String::new()), "it binds nothing");
    let place = Place::new();
    let none = place.word("none");
    let complaint = format!("cannot serve {none}: no such file or directory");
    refused(&run("poetryd", ["--check", "fastpoetry", &none]), 1, &complaint);
    let script = place.write("script.toml", "[[connection]]\nfial = true\n");
    let finished = run("poetryd", ["--check", "fastpoetry", "--script", &script, &poem()]);
    assert_eq!(finished.code(), 2);
    assert!(finished.complaint().starts_with(&format!("poetryd: {script}:2: unknown key 'fial'")), "{finished:?}");
}
