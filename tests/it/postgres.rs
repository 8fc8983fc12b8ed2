//! PostgreSQL under a test's control: a cluster of its own, in a directory of its own, as an ordinary user.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::harness::{Theirs, eventually, free_port};

/// A cluster, where everybody is trusted, and `postgres` may do everything.
pub(crate) struct Postgres {
    programs: PathBuf,
    place: TempDir,
    /// On the loopback interface, if it listens there; there is a socket in its directory in any case.
    port: Option<u16>,
    server: Mutex<Option<Theirs>>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end(Signal::SIGQUIT);
    }
}

impl Postgres {
    /// One that listens on a port; `None`: there is no PostgreSQL on this machine.
    pub(crate) fn start() -> Option<Self> {
        let mut postgres = Self::new()?;
        // A port that was free may be taken by now.
        for _ in 0..5 {
            postgres.port = Some(free_port());
            if postgres.try_begin() {
                return Some(postgres);
            }
        }
        panic!("{}", postgres.log());
    }

    /// One that can be reached by its socket only, and so can be started again.
    pub(crate) fn start_local() -> Option<Self> {
        let postgres = Self::new()?;
        postgres.begin();
        Some(postgres)
    }

    /// One for all tests that leave it as it is but for databases of their own.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(postgres) = shared.upgrade() {
            return Some(postgres);
        }
        let postgres = Arc::new(Self::start_local()?);
        *shared = Arc::downgrade(&postgres);
        Some(postgres)
    }

    fn new() -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let programs = versions.map(|entry| entry.expect("an entry").path().join("bin")).max();
        let Some(programs) = programs.filter(|programs| programs.join("initdb").exists()) else {
            writeln!(std::io::stderr(), "skipped: there is no PostgreSQL").expect("told");
            return None;
        };
        let place = tempfile::tempdir().expect("a directory");
        let postgres = Self { programs, place, port: None, server: Mutex::default() };
        let mut init = postgres.program("initdb");
        init.args(["--auth=trust", "--username=postgres", "--no-sync", "--no-instructions", "--encoding=UTF8"]);
        let made = init.args(["--locale=C", "-D"]).arg(postgres.data()).stdin(Stdio::null()).output().expect("started");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(postgres)
    }

    /// A standby of this one as it is now. It is stopped for that.
    pub(crate) fn standby(&self) -> Self {
        self.end(Signal::SIGINT);
        let place = tempfile::tempdir().expect("a directory");
        let programs = self.programs.clone();
        let standby = Self { programs, place, port: None, server: Mutex::default() };
        let mut copy = standby.program("cp");
        copy.arg("-r").arg(self.data()).arg(standby.data());
        assert!(copy.status().expect("cp").success());
        assert!(standby.program("touch").arg(standby.data().join("standby.signal")).status().expect("touch").success());
        standby.begin();
        standby
    }

    /// A program of it, or another one, as `nobody` if this is root, whom it refuses.
    fn program(&self, name: &str) -> Command {
        let own = self.programs.join(name);
        let mut command = Command::new(if own.exists() { &own } else { Path::new(name) });
        if geteuid().is_root() {
            const NOBODY: u32 = 65_534;
            std::os::unix::fs::chown(self.place.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir(self.place.path());
        command
    }

    /// A pooler beside it, with these settings: the place of its socket; `None`: there is no pgbouncer on this machine.
    pub(crate) fn pooler(&self, settings: &str) -> Option<(TempDir, Theirs)> {
        let place = tempfile::tempdir().expect("a directory");
        let (ini, users, own) = (place.path().join("pgbouncer.ini"), place.path().join("users"), self.directory());
        let text = format!(
            "[databases]\n* = host={own} port=5432\n[pgbouncer]\nauth_type = trust\nauth_file = {}\nlisten_addr =\nlisten_port = 5432\n\
             unix_socket_dir = {}\n{settings}\n",
            users.display(),
            place.path().display()
        );
        fs::write(&users, "\"postgres\" \"\"\n").expect("written");
        fs::write(&ini, text).expect("written");
        let mut command = self.program("pgbouncer");
        if geteuid().is_root() {
            std::os::unix::fs::chown(place.path(), Some(65_534), Some(65_534)).expect("given away");
        }
        let command = command.arg("-q").arg(&ini).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(pooler) = command.spawn() else {
            writeln!(std::io::stderr(), "skipped: there is no pgbouncer").expect("told");
            return None;
        };
        eventually("it listens", || place.path().join(".s.PGSQL.5432").exists());
        Some((place, Theirs(pooler)))
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    fn directory(&self) -> String {
        self.place.path().to_str().expect("UTF-8").to_owned()
    }

    /// Its port on the loopback interface.
    pub(crate) fn port(&self) -> u16 {
        self.port.expect("it listens there")
    }

    /// A database of it, for somebody.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@/{database}?host={}", self.directory())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// Starts it, and waits until it takes connections; false: it has ended instead.
    fn try_begin(&self) -> bool {
        let log = fs::File::create(self.place.path().join("log")).expect("a log");
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(["-c", "fsync=off", "-c", "max_connections=200", "-k"]);
        command.arg(self.directory());
        match self.port {
            Some(port) => command.args(["-h", "127.0.0.1", "-p", &port.to_string()]),
            None => command.args(["-h", "", "-p", "5432"]),
        };
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("started");
        let server = Mutex::new(Theirs(server));
        let has_ended = || server.lock().expect("nobody else").0.try_wait().expect("a child").is_some();
        // Its eighth line, while it starts, is `starting`.
        let is_ready = || {
            let pid_file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            pid_file.lines().nth(7).is_some_and(|status| status.trim() == "ready")
        };
        eventually("it is ready", || is_ready() || has_ended());
        if has_ended() {
            return false;
        }
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server.into_inner().ok();
        true
    }

    pub(crate) fn begin(&self) {
        assert!(self.try_begin(), "{}", self.log());
    }

    /// Ends it: after a word with everybody (SIGINT), or as if it had crashed (SIGQUIT).
    pub(crate) fn end(&self, signal: Signal) {
        if let Some(mut server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = kill(Pid::from_raw(i32::try_from(server.0.id()).expect("a pid")), signal);
            let _ = server.0.wait();
        }
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = self.program("psql");
        let port = self.port.unwrap_or(5432).to_string();
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-p", &port, "-h"]);
        command.arg(self.directory()).args(["-d", database]);
        command
    }

    /// What some statements return, as psql writes it.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        let mut command = self.psql(database);
        let done = command.args(["-c", statements]).stdin(Stdio::null()).output().expect("psql");
        assert!(done.status.success(), "{statements}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// An empty database of this name.
    pub(crate) fn create(&self, database: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {database}"));
    }

    /// A session that goes on.
    pub(crate) fn session(&self, database: &str) -> Session {
        let mut command = self.psql(database);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql");
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Session { _psql: Theirs(child), stdin, stdout: BufReader::new(stdout) }
    }
}

/// A session of psql.
pub(crate) struct Session {
    _psql: Theirs,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    /// What some statements return, when they are done.
    pub(crate) fn say(&mut self, statements: &str) -> String {
        writeln!(self.stdin, "{statements};\n\\echo done").expect("said");
        let mut answer = String::new();
        while !answer.ends_with("done\n") {
            assert!(self.stdout.read_line(&mut answer).expect("an answer") > 0, "{statements}: {answer}");
        }
        answer.trim_end_matches("done\n").trim_end().to_owned()
    }
}
