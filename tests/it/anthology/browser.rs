//! The page as somebody with a browser meets it.

use super::*;
use crate::webdriver::Browser;
use serde_json::json;

const HOSTILE: &str = "<script>window.owned = 1</script><img src=x onerror='owned = 2'></pre></title><svg onload='owned = 3'>\
    <iframe src='javascript:parent.owned = 4'></iframe><base href='http://evil.example/'><style>body{display:none}</style>\
    <meta http-equiv=refresh content='0;url=javascript:owned=5'>\u{202e}\u{1b}[2J-->]]>";

#[test]
fn nothing_that_a_source_sends_runs() {
    let Some(browser) = Browser::start() else { return };
    let escaped = HOSTILE.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\u{1b}', "");
    let feed = format!(
        "<rss><channel><item><title>{escaped}</title><link>javascript:owned=6</link></item>
        <item><title>a</title><link>http://a.example/\"onmouseover=\"owned=7</link></item>
        <item><title>b</title><link>data:text/html,&lt;script&gt;owned=8&lt;/script&gt;</link></item></channel></rss>"
    );
    let in_line = HOSTILE.replace('\u{1b}', "");
    let servers = [
        Server::poem(HOSTILE),
        replying(reply("Content-Type: text/html\r\n", format!("<title>{escaped}</title>"))),
        replying(reply("Content-Type: text/xml\r\n", &feed)),
        replying(reply("Content-Type: text/plain\r\n", HOSTILE)),
        replying(format!("HTTP/1.1 500 {in_line}\r\nContent-Length: 0\r\n\r\n")),
        replying(format!("HTTP/1.1 302 Found\r\nLocation: http://evil.example/{in_line}\r\nContent-Length: 0\r\n\r\n")),
        replying(reply(&format!("Content-Type: {in_line}\r\n"), "x")),
        replying(reply(&format!("Content-Encoding: {in_line}\r\n"), "x")),
        replying(reply("Content-Type: text/plain; charset=<script>owned=9</script>\r\n", "x")),
        replying(reply("Content-Type: text/xml\r\n", "<script>owned=10</script>")),
    ];
    let mut words = vec![servers[0].port()];
    words.extend(servers[1..].iter().map(|server| url(server) + "?%3Cscript%3E&'owned=11'"));
    // Names are the word of whoever starts it, and text all the same.
    words[1] = format!("<script>alert(1)</script>={}", words[1]);
    words.push(format!("<b onclick><img src>={}", servers[0].port()));
    let server = anthology(words);
    for path in
        ["/", "/?wait", "/source/1", "/source/2", "/source/3", "/anthology.json", "/nothing?<script>owned=13</script>"]
    {
        browser.go(&format!("http://127.0.0.1:{}{path}", server.port()));
        assert_eq!(browser.value("window.owned === undefined"), true, "{path}");
        let inert = "!document.querySelector('script, img, iframe, base, style, meta[http-equiv], svg[onload]')";
        // What has no markup is shown by the browser in elements of its own.
        assert!(path.len() > 6 || browser.value(inert) == true, "{path}");
        let attributes =
            "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => a.name.startsWith('on'))";
        assert_eq!(browser.value(&format!("{attributes}.length")), 0, "{path}");
        let links = "[...document.links].filter(a => !/^https?:$/.test(a.protocol)).map(a => a.href).join()";
        assert_eq!(browser.value(links), "", "{path}");
    }
    // That some of these were no pages is told, too.
    browser.complaints();
    browser.go(&format!("http://127.0.0.1:{}/", server.port()));
    assert_eq!(
        browser.value("document.querySelector('#source-1 pre').textContent.includes('<script>window.owned')"),
        true
    );
    assert_eq!(browser.value("getComputedStyle(document.body).display"), "flex");
    assert_eq!(browser.value("document.querySelectorAll('section').length"), 11);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn the_page_is_for_dark_rooms_narrow_screens_and_paper() {
    let Some(browser) = Browser::start() else { return };
    let (poem, held) = (Server::poem(format!("a poem\n{}\n", "long".repeat(200))), Held::new("late"));
    let (_socket, refused) = crate::harness::refusing_port();
    let server = anthology([format!("donne={}", poem.port()), held.server.port(), refused]);
    held.release();
    browser.go(&format!("http://127.0.0.1:{}/", server.port()));
    // What came last stands first.
    let top = |selector: &str| format!("document.querySelector('{selector}').getBoundingClientRect().top");
    for (above, below) in [("h1", "figure"), ("figure", "#source-1"), ("#source-3", "footer")] {
        assert_eq!(browser.value(&format!("{} < {}", top(above), top(below))), true, "{above} {below}");
    }
    assert_eq!(browser.value("getComputedStyle(document.querySelector('.asked')).display"), "none");
    let paint = |scheme: &str, width: u32| {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        browser.chromium("Emulation.setEmulatedMedia", &json!({ "features": features }));
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": true });
        browser.chromium("Emulation.setDeviceMetricsOverride", &metrics);
        let colour = |selector: &str, name: &str| {
            browser.value(&format!("getComputedStyle(document.querySelector('{selector}')).{name}"))
        };
        let fits = browser.value("document.documentElement.scrollWidth <= innerWidth");
        (colour("body", "backgroundColor"), colour("svg rect.page", "fill"), fits)
    };
    let (light, dark) = (json!("rgb(255, 255, 255)"), json!("rgb(13, 17, 23)"));
    for width in [320, 1280] {
        assert_eq!(paint("light", width), (light.clone(), light.clone(), json!(true)), "{width}");
        assert_eq!(paint("dark", width), (dark.clone(), dark.clone(), json!(true)), "{width}");
    }
    browser.chromium("Emulation.setEmulatedMedia", &json!({ "media": "print" }));
    assert_eq!(browser.value("getComputedStyle(document.querySelector('footer')).display"), "none");
    assert_eq!(browser.value("getComputedStyle(document.body).backgroundColor"), light);
    assert_eq!(browser.complaints(), [""; 0]);
}
