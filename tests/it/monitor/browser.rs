//! The page as somebody with a browser meets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::*;
use crate::harness::Server;
use crate::webdriver::Browser;

const STATE: &str = "document.getElementById('state').dataset.state";
const ROWS: &str = "[...document.querySelectorAll('#sources tr')].map(row => row.textContent).join('|')";
const LIVE: &str = "document.getElementById('state').dataset.state === 'live'";

#[test]
fn a_page_shows_who_reports_and_survives_a_restart() {
    let Some(browser) = Browser::start() else { return };
    let mut monitor = monitor(&[]);
    let (pages, collector) = (monitor.address.port().to_string(), monitor.addresses[1].port().to_string());
    browser.go(&format!("http://127.0.0.1:{pages}/"));
    browser.until(LIVE);
    browser.until("!document.getElementById('empty').hidden");
    let mut source = Source::new(&monitor);
    let script = "<script>alert(1)</script>";
    for color in ["red", "#00f", script] {
        source.say(sample(color, r#", "clients": 3, "events": ["reload"]"#));
    }
    browser.until(&format!("document.querySelectorAll('#sources tr').length === 3 && {STATE} === 'live'"));
    browser.until(&format!("{ROWS}.includes({script:?}) && {ROWS}.includes('1.5')"));
    browser.until("document.querySelectorAll('#marks li').length === 3");
    // Points move on.
    let before = browser.value("monitor().points").as_u64().expect("a number");
    for _ in 0..10 {
        source.say(sample("red", ""));
    }
    browser.until(&format!("monitor().points >= {}", before + 10));
    // The monitor is killed, and comes again at the same place.
    monitor.signal(Signal::SIGKILL);
    let _ = monitor.finish();
    browser.until(&format!("{STATE} !== 'live'"));
    let flags = ["--port", &pages, "--collect", &collector];
    monitor = Service::start_several(program("poetry-monitor").args(flags), 2);
    browser.until(LIVE);
    let mut source = Source::new(&monitor);
    source.say(sample("green", ""));
    browser.until("document.querySelectorAll('#sources tr').length === 4");
    // Nothing that the policy forbids was tried; that it was away for a moment is no complaint about the page.
    let complaints: Vec<String> =
        browser.complaints().into_iter().filter(|text| !text.contains("ERR_") && !text.contains("/feed")).collect();
    assert_eq!(complaints, [""; 0]);
}

#[test]
fn a_tab_stays_small_however_much_comes() {
    let Some(browser) = Browser::start() else { return };
    let monitor = monitor(&["--keep", "30s"]);
    browser.go(&format!("http://127.0.0.1:{}/", monitor.address.port()));
    browser.until(LIVE);
    let mut source = Source::new(&monitor);
    let mut push = |from: u32| {
        for number in from..from + 20_000 {
            source.say(sample("red", &format!(r#", "number": {number}"#)));
        }
        browser.until(&format!("{ROWS}.length > 0 && monitor().sequence >= {}", from + 20_000));
        browser.chromium("HeapProfiler.collectGarbage", &serde_json::json!({}));
        browser.value("performance.memory.usedJSHeapSize").as_u64().expect("bytes")
    };
    let first = push(0);
    let second = push(20_000);
    assert!(second < first + 2_000_000, "{first} {second}");
    assert_eq!(browser.value("monitor().missed").as_u64().map(|missed| missed < 40_000), Some(true));
}

#[test]
fn a_hidden_tab_holds_no_stream_and_has_no_gap_when_it_is_shown_again() {
    let Some(browser) = Browser::start() else { return };
    let monitor = monitor(&[]);
    browser.go(&format!("http://127.0.0.1:{}/", monitor.address.port()));
    browser.until(LIVE);
    let mut source = Source::new(&monitor);
    source.say(sample("red", ""));
    browser.until("monitor().points === 1");
    let show = |is_hidden: bool| {
        browser.value(&format!(
            "(Object.defineProperty(document, 'hidden', {{value: {is_hidden}, configurable: true}}),
            document.dispatchEvent(new Event('visibilitychange')))"
        ));
    };
    for round in 1..=7 {
        show(true);
        eventually("nobody reads", || metric(&monitor, "poetry_monitor_readers") == 0);
        source.say(sample("red", ""));
        show(false);
        browser.until(&format!("monitor().sequence === {}", round + 1));
        assert_eq!(browser.value("monitor().missed"), 0);
    }
}

#[test]
fn a_proxy_that_answers_502_for_a_while_is_no_end() {
    let Some(browser) = Browser::start() else { return };
    let monitor = monitor(&[]);
    let (address, is_bad) = (monitor.address, Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&is_bad);
    let proxy = Server::start(move |_, mut client| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match read_some(&client, &mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        if seen.load(SeqCst) {
            let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
        let mut upstream = connect(address);
        upstream.write_all(&head).expect("sent");
        let mut buffer = [0; 4096];
        // Until either side ends, or it is bad.
        loop {
            upstream.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
            match read_some(&upstream, &mut buffer) {
                Ok(0) => return,
                Ok(read) if client.write_all(&buffer[..read]).is_ok() => {}
                Err(io::ErrorKind::WouldBlock) if !seen.load(SeqCst) => {}
                _ => return,
            }
        }
    });
    browser.go(&format!("http://{}/", proxy.address));
    browser.until(LIVE);
    let mut source = Source::new(&monitor);
    for round in 1..=2 {
        source.say(sample("red", ""));
        browser.until(&format!("monitor().sequence === {}", 2 * round - 1));
        is_bad.store(true, SeqCst);
        source.say(sample("red", ""));
        // It has been refused, and that is where a browser by itself gives up.
        let failures = browser.value("monitor().failures").as_u64().unwrap_or_default();
        browser.until(&format!("monitor().failures > {failures}"));
        is_bad.store(false, SeqCst);
        browser.until(&format!("monitor().sequence === {}", 2 * round));
        browser.until(LIVE);
    }
}
