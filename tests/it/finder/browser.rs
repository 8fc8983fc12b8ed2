//! The page of http-charfinder as somebody with a browser meets it.

use serde_json::json;

use crate::harness::{Service, program};
use crate::webdriver::Browser;

const ROWS: &str = "document.querySelectorAll('tbody > tr').length";
const STATUS: &str = "document.getElementById('status')?.textContent";

/// The page, and its address.
fn server() -> (Service, String) {
    let server = Service::start(&mut program("http-charfinder"));
    let url = format!("http://{}/", server.address);
    (server, url)
}

fn says(status: &str) -> String {
    format!("{STATUS} === {status:?}")
}

fn scroll_to_the_end(browser: &Browser) {
    browser.value("scrollTo(0, document.body.scrollHeight)");
}

#[test]
fn a_page_in_a_browser_answers_grows_and_goes_back() {
    let (server, url) = server();
    let Some(browser) = Browser::start() else { return };
    browser.go(&url);
    assert_eq!(browser.value("document.activeElement.id"), "query");
    // It answers what is typed, without a button.
    browser.type_into("#query", "cat face");
    browser.until(&says("10 matches for 'cat face'"));
    assert_eq!((browser.value(ROWS), browser.value("location.search")), (10.into(), "?query=cat+face".into()));
    assert!(browser.text("tbody").contains("U+1F431") && browser.text("tbody").contains("POUTING CAT FACE"));
    browser.type_into("#query", "\n");
    // An answer that is longer than a page grows when its end comes into sight, and says how far it is.
    browser.clear("#query");
    browser.type_into("#query", "braille\n");
    browser.until(&says("256 matches for 'braille'"));
    assert_eq!(browser.value("document.title"), "braille - http-charfinder");
    scroll_to_the_end(&browser);
    browser.until(&format!("{ROWS} === 256"));
    browser.until("document.querySelector('progress').hidden");
    assert_eq!(browser.value("document.querySelector('progress').value"), 256);
    assert!(!browser.text(".pages").contains("After"));
    // One that is very long, for a while.
    browser.clear("#query");
    browser.type_into("#query", "cjk\n");
    browser.until(&says("103203 matches for 'cjk'"));
    for page in 2..=6 {
        scroll_to_the_end(&browser);
        browser.until(&format!("{ROWS} >= {page} * 200"));
    }
    assert_eq!(browser.value("document.querySelector('progress').hidden"), false);
    assert!(browser.text(".pages").contains(" of 103,203"));
    // In order, and none twice.
    let codes =
        "[...document.querySelectorAll('tbody td:first-child')].map(cell => parseInt(cell.textContent.slice(2), 16))";
    assert_eq!(browser.value(&format!("{codes}.every((code, at, all) => at === 0 || all[at - 1] < code)")), true);
    // Back, and back again: what was typed on the way to a query is none.
    browser.back();
    browser.until(&says("256 matches for 'braille'"));
    assert_eq!(browser.value("document.getElementById('query').value"), "braille");
    browser.back();
    browser.until(&says("10 matches for 'cat face'"));
    // A link of the page is a page.
    browser.click("a[href='/?query=%E2%99%9C']");
    browser.until(&says("1 match for '♜'"));
    browser.back();
    browser.until(&says("10 matches for 'cat face'"));
    // What makes no sense is said, and leaves the form.
    browser.clear("#query");
    browser.type_into("#query", "U+110000\n");
    browser.until("document.querySelector('.refusal')");
    assert_eq!(browser.text(".refusal"), "query: U+110000 is no code point: the last one is U+10FFFF");
    let complaints = browser.complaints();
    let is_expected = |complaint: &String| complaint.contains("110000") && complaint.contains("400");
    assert!(complaints.iter().all(is_expected), "{complaints:?}");
    drop(browser);
    assert_eq!(server.stop().code(), 0);
}

/// With a line on which every page takes its time, so that there is something under way.
#[test]
fn a_query_that_changes_while_rows_arrive_gets_its_own_rows_only() {
    let (server, _) = server();
    let Some(browser) = Browser::start() else { return };
    let late = ["-v", "--protocol", "http", "--behavior", "100:delay", "--delay", "300ms", &server.port()];
    let slow = Service::start(program("poetry-chaos").args(late));
    browser.go(&format!("http://{}/?query=cjk", slow.address));
    // The next page is asked for at once: the margin reaches as far as the window.
    scroll_to_the_end(&browser);
    browser.value("document.getElementById('query').value = ''");
    browser.type_into("#query", "sun\n");
    browser.until(&says("17 matches for 'sun'"));
    assert_eq!(browser.value(ROWS), 17);
    // After another answer, which came later than whatever was under way, there is still nothing else.
    browser.clear("#query");
    browser.type_into("#query", "rook\n");
    browser.until(&says("18 matches for 'rook'"));
    assert_eq!(browser.value(ROWS), 18);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // A server that is gone is told.
    drop(slow);
    browser.clear("#query");
    browser.type_into("#query", "knight\n");
    browser.until(&format!("{STATUS}.startsWith('No answer: ')"));
}

#[test]
fn a_page_is_for_dark_rooms_narrow_screens_and_browsers_without_scripts() {
    let (_server, url) = server();
    let Some(browser) = Browser::start() else { return };
    let background = |scheme: &str| {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.chromium("Emulation.setEmulatedMedia", &features);
        browser.go(&format!("{url}?query=cat"));
        browser.value("getComputedStyle(document.body).backgroundColor").as_str().expect("a colour").to_owned()
    };
    assert_eq!((&*background("light"), &*background("dark")), ("rgb(255, 255, 255)", "rgb(22, 24, 27)"));
    let narrow = json!({ "width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": true });
    browser.chromium("Emulation.setDeviceMetricsOverride", &narrow);
    for query in ["line+feed", "arabic+ligature", &"x".repeat(300)] {
        browser.go(&format!("{url}?query={query}"));
        assert_eq!(browser.value("innerWidth"), 320);
        assert_eq!(browser.value("document.documentElement.scrollWidth"), 320, "{query}");
    }
    browser.chromium("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    browser.go(&format!("{url}?query=braille"));
    assert!(browser.text(".pages").starts_with("1 to 200 of 256"));
    browser.click("[rel=next]");
    browser.until("document.querySelector('[rel=prev]')");
    assert!(browser.text(".pages").ends_with("201 to 256 of 256"), "{}", browser.text(".pages"));
    assert!(browser.text("tbody").contains("U+28FF"));
    browser.clear("#query");
    browser.type_into("#query", "knight rook black");
    browser.click("button");
    browser.until(&says("1 match for 'knight rook black'"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
