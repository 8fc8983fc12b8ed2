//! The page as somebody with a browser meets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::webdriver::Browser;

const DETAIL: &str = "document.getElementById('detail').hidden ? '' : document.getElementById('detail').textContent";
/// Keys, as WebDriver calls them.
const LEFT: &str = "\u{e012}";
const UP: &str = "\u{e013}";
const RIGHT: &str = "\u{e014}";
const DOWN: &str = "\u{e015}";
const HOME: &str = "\u{e011}";
const END: &str = "\u{e010}";
const ESCAPE: &str = "\u{e00c}";

/// A server that gives out this page, and the number of requests that it has heard.
fn serving(page: &str) -> (Server, Arc<AtomicUsize>) {
    let heard = Arc::new(AtomicUsize::new(0));
    let (counter, page) = (Arc::clone(&heard), page.to_owned());
    let server = Server::start(move |_, mut stream| {
        let mut head = [0; 4096];
        if stream.read(&mut head).is_ok_and(|read| read > 0) {
            counter.fetch_add(1, SeqCst);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                page.len()
            );
            send_whole(stream, (head + &page).as_bytes());
        }
    });
    (server, heard)
}

/// A page of two runs: one with a poem that was tried again, and an old one.
fn page() -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let (new, old) = (report("get-poetry", directory.path()), written(directory.path(), "old.json", OLD));
    String::from_utf8(draw(&["--html", name(&new), name(&old)]).stdout).expect("text")
}

#[test]
fn a_page_answers_a_pointer_and_the_keyboard_and_asks_nobody() {
    let Some(browser) = Browser::start() else { return };
    let (server, heard) = serving(&page());
    browser.go(&format!("http://127.0.0.1:{}/", server.port()));
    assert_eq!(browser.value("document.querySelectorAll('.lane').length"), 3);
    assert_eq!(browser.value(DETAIL), "");

    // A real pointer, in the middle of the bar of the third lane: at 1.5 of 3 seconds it was waiting.
    let place = browser.value("(r => [r.left + r.width / 2, r.top + r.height / 2])(document.querySelectorAll('.bar')[2].getBoundingClientRect())");
    let pointer = |x: &Value, y: &Value| {
        browser.chromium("Input.dispatchMouseEvent", &json!({ "type": "mouseMoved", "x": x, "y": y }));
    };
    pointer(&place[0], &place[1]);
    browser.until(&format!("({DETAIL}) === '1  127.0.0.1:10000: at 1.50 s waiting, from 1.00 s to 2.00 s'"));
    let wide =
        browser.value("(r => r.left + r.width * 0.9)(document.querySelectorAll('.bar')[2].getBoundingClientRect())");
    pointer(&wide, &place[1]);
    browser.until(&format!("({DETAIL}).endsWith('receiving, from 2.00 s to 3.00 s, 10 of 30 bytes')"));
    pointer(&json!(1), &json!(1));
    browser.until(&format!("({DETAIL}) === ''"));

    // One stop for Tab, and arrows from there.
    assert_eq!(browser.value("[...document.querySelectorAll('.lane')].map(lane => lane.tabIndex).join()"), "0,-1,-1");
    let focused = "document.activeElement.querySelector('.name').textContent";
    browser.type_into(".lane", DOWN);
    browser.until(&format!("{focused} === '2  bad'"));
    assert_eq!(browser.value("getComputedStyle(document.activeElement).outlineStyle"), "solid", "where is the focus?");
    let into_focused = |keys: &str| browser.type_into(".lane[tabindex='0']", keys);
    // From where the pointer was back to the last event, the one before that, and forth again.
    browser.until(&format!("({DETAIL}).startsWith('2  bad: at 2.70 s done (')"));
    into_focused(LEFT);
    browser.until(&format!("/^2  bad: at 0[.]\\d+ s done [(].*, 3 attempts[)]$/.test({DETAIL})"));
    into_focused(LEFT);
    browser.until(&format!("({DETAIL}).includes(' receiving, from ')"));
    into_focused(LEFT);
    browser.until(&format!("!({DETAIL}).includes(' receiving, from ')"));
    into_focused(RIGHT);
    browser.until(&format!("({DETAIL}).endsWith(' of 653 bytes')"));
    into_focused(END);
    browser.until(&format!("{focused} === '1  127.0.0.1:10000'"));
    into_focused(HOME);
    browser.until(&format!("{focused} === '1  good'"));
    into_focused(UP);
    browser.until(&format!("{focused} === '1  good'"));
    into_focused(ESCAPE);
    browser.until(&format!("({DETAIL}) === ''"));
    assert_eq!(
        browser.value("document.activeElement.getAttribute('aria-label').startsWith('Poem 1, good from 127.0.0.1:')"),
        true
    );

    assert_eq!(browser.complaints(), [""; 0]);
    assert_eq!((heard.load(SeqCst), browser.value("performance.getEntriesByType('resource').length")), (1, json!(0)));
    // The policy, and not only that nobody tries.
    browser.value("(window.refused = 0, document.addEventListener('securitypolicyviolation', () => window.refused++), fetch('/more').catch(() => 0), 1)");
    browser.until("window.refused === 1");
    assert_eq!(heard.load(SeqCst), 1);
}

#[test]
fn a_page_is_for_narrow_screens_and_dark_rooms() {
    let Some(browser) = Browser::start() else { return };
    let (server, _) = serving(&page());
    browser.chromium(
        "Emulation.setDeviceMetricsOverride",
        &json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true }),
    );
    browser.go(&format!("http://127.0.0.1:{}/", server.port()));
    assert_eq!(browser.value("document.documentElement.scrollWidth"), 360);
    assert_eq!(
        browser.value("Math.min(...[...document.querySelectorAll('.bar')].map(bar => bar.clientWidth)) > 300"),
        true
    );
    assert_eq!(browser.value("parseFloat(getComputedStyle(document.querySelector('.name')).fontSize) >= 12"), true);
    let background = "getComputedStyle(document.body).backgroundColor";
    assert_eq!(browser.value(background), "rgb(255, 255, 255)");
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.chromium("Emulation.setEmulatedMedia", &dark);
    browser.until(&format!("{background} === 'rgb(13, 17, 23)'"));
    assert_eq!(browser.value("getComputedStyle(document.querySelector('.bar .receiving')).fill"), "rgb(31, 111, 235)");
}
