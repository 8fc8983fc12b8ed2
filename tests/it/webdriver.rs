//! A browser under a test's control: Chromium without a window, by way of chromedriver (W3C WebDriver).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::PATIENCE;

/// How an element is called in replies.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.request("DELETE", "", &Value::Null);
        }
        let group = Pid::from_raw(i32::try_from(self.driver.id()).expect("a pid"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.driver.wait();
    }
}

/// A chromedriver of its own, and its port; `None`: there is none on this machine.
fn driver() -> Option<(Child, u16)> {
    // It takes any port that IPv6 has free, and ends if that one is taken in IPv4; one of the next ones is not.
    for _ in 0..20 {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().ok()?;
        let (mut lines, mut said) = (BufReader::new(driver.stdout.take().expect("a pipe")), String::new());
        while lines.read_line(&mut said).expect("text") > 0 {
            if let Some((_, port)) = said.trim_end().rsplit_once("successfully on port ") {
                return Some((driver, port.trim_end_matches('.').parse().expect("a port")));
            }
        }
        driver.wait().expect("an end");
        assert!(said.contains("port not available"), "chromedriver: {said}");
    }
    panic!("chromedriver finds no port");
}

impl Browser {
    /// Starts one; `None`, and a line that says so: there is no chromedriver.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts one with more arguments.
    pub(crate) fn start_with(more: &[&str]) -> Option<Self> {
        let Some((driver, port)) = driver() else {
            writeln!(std::io::stderr(), "skipped: there is no chromedriver").expect("told");
            return None;
        };
        let profile = tempfile::tempdir().expect("a directory");
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        let arguments = [
            "--headless=new",
            // root has none.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let arguments = [&arguments[..], more].concat();
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.request("POST", "", &capabilities).expect("a session");
        browser.session = format!("/{}", session["sessionId"].as_str().expect("an id"));
        Some(browser)
    }

    /// One command of the protocol, below the session; the error is the browser's.
    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} /session{}{path} HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.session,
            self.port,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).map_err(|error| error.to_string())?;
        // It does not close the connection, whatever it is asked for.
        let (mut reader, mut head) = (BufReader::new(stream), String::new());
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).map_err(|error| error.to_string())? == 0 {
                return Err("chromedriver is gone".to_owned());
            }
        }
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.ok_or("a reply without a length")?];
        reader.read_exact(&mut body).map_err(|error| error.to_string())?;
        let mut value: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        match value["value"]["error"].as_str() {
            Some(_) => Err(value["value"]["message"].to_string()),
            None => Ok(value["value"].take()),
        }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.request("POST", path, body).unwrap_or_else(|why| panic!("{path}: {why}"))
    }

    /// Goes to a page, and waits until it is there.
    pub(crate) fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// One step back in the history.
    pub(crate) fn back(&self) {
        self.post("/back", &json!({}));
    }

    /// The value of a JavaScript expression.
    pub(crate) fn value(&self, expression: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": format!("return {expression};"), "args": [] }))
    }

    /// Waits until an expression is true, as a person would look again.
    pub(crate) fn until(&self, expression: &str) {
        let start = Instant::now();
        while self.value(&format!("Boolean({expression})")) != Value::Bool(true) {
            assert!(
                start.elapsed() < PATIENCE,
                "{expression}; the page says {}",
                self.value("document.body.innerText")
            );
        }
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("{selector}")).to_owned()
    }

    /// Types into an element, after what is there.
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        self.post(&format!("/element/{}/value", self.element(selector)), &json!({ "text": text }));
    }

    /// Empties an input.
    pub(crate) fn clear(&self, selector: &str) {
        self.post(&format!("/element/{}/clear", self.element(selector)), &json!({}));
    }

    pub(crate) fn click(&self, selector: &str) {
        self.post(&format!("/element/{}/click", self.element(selector)), &json!({}));
    }

    /// The text of an element as a person sees it.
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.request("GET", &format!("/element/{}/text", self.element(selector)), &Value::Null);
        text.expect("a text").as_str().expect("text").to_owned()
    }

    /// A command of Chromium's own protocol.
    pub(crate) fn chromium(&self, command: &str, parameters: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// What the browser has complained about since it was last asked: errors of scripts, and what a policy has forbidden.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        log.as_array().expect("a list").iter().map(|entry| entry["message"].to_string()).collect()
    }
}
