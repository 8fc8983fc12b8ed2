//! The page as somebody with a browser meets it.

use super::*;
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
