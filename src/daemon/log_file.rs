//! A log file that rotates by size, can be reopened after logrotate(8), and never fails: however full the disk or
//! forbidden the directory, the service goes on.
//!
//! Lines that cannot be written are dropped and counted; when there is room again a line says how many were lost. A
//! file that cannot be rotated goes on growing, and a line says that, too. (Under `ulimit -f`, RLIMIT_FSIZE, the
//! program has to block SIGXFSZ for that.)

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{self, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::names;
use crate::errors::reason;
use crate::sync::lock;

/// Mode of a new file: readable for owner and group.
const MODE: u32 = 0o640;

/// A log file. Clones write to the same one.
///
/// Each write is one event of whole lines, and succeeds whatever happens: see the module.
#[derive(Debug, Clone)]
pub struct LogFile(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: File,
    links: Links,
    /// Whether the first open(2) created the file.
    is_new: bool,
    /// Bytes in the file, unless another process has truncated it.
    size: u64,
    max_size: Option<u64>,
    keep: usize,
    /// The size at which to rotate: `max_size`, or more after a rotation has failed. `None`: never.
    rotate_at: Option<u64>,
    rotation_failed: bool,
    /// The file ends in the middle of a line.
    torn: bool,
    lost: u64,
    /// Reason for the first lost line.
    lost_to: String,
    /// Format of the log's own lines.
    is_json: bool,
}

impl LogFile {
    /// Opens a log file to append to it, or makes one (mode 0640, less the umask).
    ///
    /// Before a line that would make the file longer than `max_size` bytes, `log` becomes `log.1`, `log.1` becomes
    /// `log.2`, and so on up to `log.KEEP`; with `keep` 0 the file is emptied. A line longer than `max_size` has a file
    /// for itself. Only regular files are rotated.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, max_size: Option<u64>, keep: usize) -> io::Result<Self> {
        Self::open_with(path, max_size, keep, Links::Follow)
    }

    /// [`open`](Self::open) by root, for a process that will become another user's: fchown(2) gives the file to that
    /// user and group, so that the process can reopen it.
    ///
    /// Users who may write to the directory may have put anything there, so a symbolic link is refused (now and at
    /// every
    /// [`reopen`](Self::reopen)), and so is a file with a second name (a hard link). A character device, such as
    /// /dev/null, keeps its owner. The directories above are trusted.
    ///
    /// # Errors
    /// The file cannot be opened, is neither a regular file nor a character device, or fchown(2) is refused.
    pub fn open_for(path: &Path, max_size: Option<u64>, keep: usize, uid: u32, gid: u32) -> io::Result<Self> {
        let log = Self::open_with(path, max_size, keep, Links::Refuse)?;
        let given = give_to(&lock(&log.0).file, uid, gid);
        given.inspect_err(|_| log.take_back())?;
        Ok(log)
    }

    fn open_with(path: &Path, max_size: Option<u64>, keep: usize, links: Links) -> io::Result<Self> {
        // Absolute, so that reopen works after chdir("/").
        let path = path::absolute(path)?;
        // If creating fails for another reason than an existing file, the second open(2) fails with it.
        let (file, is_new) = match links.options().create_new(true).open(&path) {
            Ok(file) => (file, true),
            Err(_) => (open(&path, links)?, false),
        };
        let mut state = State {
            path,
            file,
            links,
            is_new,
            size: 0,
            max_size,
            keep,
            rotate_at: None,
            rotation_failed: false,
            torn: false,
            lost: 0,
            lost_to: String::new(),
            is_json: false,
        };
        state.begin()?;
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// Format of the log's own lines (default: text).
    pub fn set_json(&self, is_json: bool) {
        lock(&self.0).is_json = is_json;
    }

    /// Removes the file after a failed start, if [`open`](Self::open) created it, it is empty, and unlink(2) is
    /// allowed.
    pub fn take_back(&self) {
        let state = lock(&self.0);
        let is_empty = || state.file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
        if state.is_new && is_empty() && names(&state.path, &state.file) {
            let _ = fs::remove_file(&state.path);
        }
    }

    /// Opens the path again, after logrotate(8) has moved the old file; creates a new file if there is none.
    ///
    /// # Errors
    /// The path cannot be opened: logging goes on in the old file.
    pub fn reopen(&self) -> io::Result<()> {
        let mut state = lock(&self.0);
        state.file = open(&state.path, state.links)?;
        state.begin()
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &LogFile {
    /// Appends whole lines; always succeeds.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        lock(&self.0).append(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// fstat(2) of a file just opened: its size, and whether it ends within a line.
    fn begin(&mut self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        self.size = metadata.len();
        self.rotate_at = self.max_size.filter(|_| metadata.is_file());
        self.torn = metadata.is_file() && ends_within_a_line(&self.path, self.links, self.size).unwrap_or(false);
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) {
        let mut before = Vec::new();
        if self.needs_rotation(lines.len() as u64)
            && let Err(error) = self.rotate()
        {
            // Try again after another `max_size` bytes, not before every line.
            self.rotate_at = self.max_size.map(|max_size| self.size.saturating_add(max_size));
            if !self.rotation_failed {
                self.rotation_failed = true;
                let why = reason(&error);
                before = self.own_line(&format!("Cannot rotate this log: {why}; going on in the same file"));
            }
        }
        if self.lost > 0 {
            let lines = if self.lost == 1 { "line" } else { "lines" };
            let text = format!("Lost {} {lines} of this log: {}", self.lost, self.lost_to);
            before.extend(self.own_line(&text));
        }
        if self.torn {
            before.insert(0, b'\n');
        }
        match self.put(&[&before, lines].concat()) {
            Ok(()) => self.lost = 0,
            Err((written, error)) => {
                if written >= before.len() {
                    self.lost = 0;
                }
                if self.lost == 0 {
                    self.lost_to = reason(&error);
                }
                self.lost += 1;
            }
        }
    }

    /// write(2) until all bytes are written; on an error, how many were.
    fn put(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    written += n;
                    self.size += n as u64;
                    self.torn = bytes[written - 1] != b'\n';
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    fn needs_rotation(&mut self, more: u64) -> bool {
        let Some(rotate_at) = self.rotate_at else { return false };
        if self.size.saturating_add(more) <= rotate_at {
            return false;
        }
        // Another process may have truncated the file.
        self.size = self.file.metadata().map_or(self.size, |metadata| metadata.len());
        self.size > 0 && self.size.saturating_add(more) > rotate_at
    }

    /// Renames the file to `.1` and opens a new one; if that fails, undoes the rename.
    fn rotate(&mut self) -> io::Result<()> {
        if !names(&self.path, &self.file) {
            // The path is no longer the name of our file.
            self.file = open(&self.path, self.links)?;
        } else if self.keep == 0 {
            self.file.set_len(0)?;
        } else {
            let first = self.numbered(1);
            self.make_room()?;
            fs::rename(&self.path, &first)?;
            self.file = open(&self.path, self.links).inspect_err(|_| {
                let _ = fs::rename(&first, &self.path);
            })?;
        }
        self.rotation_failed = false;
        self.begin()
    }

    /// Renames `log.N` to `log.N+1`, up to the first number that is free; `log.KEEP` is overwritten.
    fn make_room(&self) -> io::Result<()> {
        let gap = (1..self.keep).find(|&n| !exists(&self.numbered(n))).unwrap_or(self.keep);
        (1..gap).rev().try_for_each(|n| fs::rename(self.numbered(n), self.numbered(n + 1)))
    }

    fn numbered(&self, n: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    fn own_line(&self, text: &str) -> Vec<u8> {
        let now = SystemTime::now();
        let mut line = match self.is_json {
            false => format!("{}  WARN {text}", humantime::format_rfc3339_millis(now)),
            true => json!({
                "timestamp": humantime::format_rfc3339_micros(now).to_string(),
                "level": "WARN",
                "fields": { "message": text },
                "target": module_path!(),
            })
            .to_string(),
        };
        line.push('\n');
        line.into_bytes()
    }
}

/// Whether a symbolic link at the path is followed.
#[derive(Debug, Clone, Copy)]
enum Links {
    Follow,
    Refuse,
}

impl Links {
    fn flags(self) -> i32 {
        // O_NOCTTY: a log that is a terminal must not become the controlling one. O_NONBLOCK: a pipe without a reader,
        // or a full one, must not block.
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        match self {
            Self::Follow => flags,
            Self::Refuse => flags | OFlag::O_NOFOLLOW,
        }
        .bits()
    }

    /// Options for appending.
    fn options(self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.append(true).mode(MODE).custom_flags(self.flags());
        options
    }
}

fn open(path: &Path, links: Links) -> io::Result<File> {
    links.options().create(true).open(path).map_err(|error| match links {
        Links::Refuse if error.raw_os_error() == Some(Errno::ELOOP as i32) => io::Error::other("it is a symbolic link"),
        _ => error,
    })
}

/// The checks and the fchown(2) of [`LogFile::open_for`].
fn give_to(file: &File, uid: u32, gid: u32) -> io::Result<()> {
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if kind.is_char_device() {
        return Ok(());
    }
    if !kind.is_file() {
        return Err(io::Error::other("it is neither a regular file nor a character device"));
    }
    if metadata.nlink() != 1 {
        return Err(io::Error::other("it has another name, too (a hard link)"));
    }
    fchown(file, Some(uid), Some(gid))
}

/// Whether the last byte of a file of this size is no newline: after a full disk, or a crash.
fn ends_within_a_line(path: &Path, links: Links, size: u64) -> io::Result<bool> {
    let Some(last) = size.checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    OpenOptions::new().read(true).custom_flags(links.flags()).open(path)?.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

/// Whether the path exists, by lstat(2): a dangling link does.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::thread;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::signal::{SigSet, Signal};
    use tempfile::TempDir;
    use tracing::{info, subscriber};

    use super::*;
    use crate::test_process::{alone, is_root};

    fn place() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        (directory, path)
    }

    fn say(mut log: &LogFile, text: &str) {
        log.write_all(text.as_bytes()).expect("never fails");
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).expect("readable")
    }

    /// All files of a place, with what is in them, in the order of their names.
    fn files(directory: &TempDir) -> Vec<(String, String)> {
        let entries = fs::read_dir(directory.path()).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut files: Vec<_> = paths.map(|path| (name(&path), read(&path))).collect();
        files.sort();
        files
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    /// A line without its time.
    fn untimed(line: &str) -> &str {
        line.split_once(' ').expect("a time").1
    }

    #[test]
    fn lines_are_added_to_what_is_there() {
        let (directory, path) = place();
        fs::write(&path, "one\n").expect("written");
        let log = LogFile::open(&path, None, 5).expect("opened");
        say(&log, "two\n");
        say(&log.clone(), "three\n");
        assert_eq!(files(&directory), named(&[("log", "one\ntwo\nthree\n")]));
    }

    #[test]
    fn a_new_log_is_not_for_everybody() {
        let (_directory, path) = place();
        LogFile::open(&path, None, 0).expect("opened");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o137, 0);
    }

    #[test]
    fn a_line_that_would_be_too_much_begins_a_new_file() {
        let (directory, path) = place();
        let log = LogFile::open(&path, Some(8), 2).expect("opened");
        say(&log, "aaa\n");
        say(&log, "bbb\n");
        assert_eq!(files(&directory), named(&[("log", "aaa\nbbb\n")]));
        say(&log, "c\n");
        assert_eq!(files(&directory), named(&[("log", "c\n"), ("log.1", "aaa\nbbb\n")]));
        say(&log, "longer than it may be\n");
        say(&log, "d\n");
        let last = [("log", "d\n"), ("log.1", "longer than it may be\n"), ("log.2", "c\n")];
        assert_eq!(files(&directory), named(&last));
    }

    #[test]
    fn with_nothing_to_keep_a_full_file_is_emptied() {
        let (directory, path) = place();
        let log = LogFile::open(&path, Some(8), 0).expect("opened");
        say(&log, "aaaaaa\n");
        say(&log, "bb\n");
        assert_eq!(files(&directory), named(&[("log", "bb\n")]));
    }

    #[test]
    fn a_gap_among_the_old_files_is_filled() {
        let (directory, path) = place();
        for (name, text) in [("log.1", "1\n"), ("log.3", "3\n"), ("log.9", "not ours\n")] {
            fs::write(directory.path().join(name), text).expect("written");
        }
        let log = LogFile::open(&path, Some(1), usize::MAX).expect("opened");
        say(&log, "0\n");
        say(&log, "new\n");
        let moved = [("log", "new\n"), ("log.1", "0\n"), ("log.2", "1\n"), ("log.3", "3\n"), ("log.9", "not ours\n")];
        assert_eq!(files(&directory), named(&moved));
    }

    #[test]
    fn a_log_that_others_have_emptied_is_not_rotated_for_what_it_was() {
        let (directory, path) = place();
        let log = LogFile::open(&path, Some(8), 3).expect("opened");
        say(&log, "aaaaaa\n");
        File::create(&path).expect("emptied");
        say(&log, "bb\n");
        assert_eq!(files(&directory), named(&[("log", "bb\n")]));
    }

    #[test]
    fn a_log_that_others_have_moved_is_neither_moved_again_nor_emptied() {
        for keep in [0, 3] {
            let (directory, path) = place();
            let log = LogFile::open(&path, Some(4), keep).expect("opened");
            say(&log, "a\n");
            fs::rename(&path, directory.path().join("moved")).expect("moved");
            fs::write(&path, "x\n").expect("written");
            say(&log, "bbb\n");
            assert_eq!(files(&directory), named(&[("log", "x\nbbb\n"), ("moved", "a\n")]));
        }
    }

    #[test]
    fn reopened_after_logrotate_it_goes_on_in_a_new_file() {
        let (directory, path) = place();
        let log = LogFile::open(&path, None, 0).expect("opened");
        say(&log, "a\n");
        fs::rename(&path, directory.path().join("moved")).expect("moved");
        say(&log, "b\n");
        log.reopen().expect("opened");
        say(&log, "c\n");
        assert_eq!(files(&directory), named(&[("log", "c\n"), ("moved", "a\nb\n")]));
        fs::remove_file(&path).expect("removed");
        log.reopen().expect("opened");
        say(&log, "d\n");
        assert_eq!(read(&path), "d\n");
    }

    #[test]
    fn a_log_that_cannot_be_reopened_goes_on() {
        let (directory, path) = place();
        let log = LogFile::open(&path, None, 0).expect("opened");
        let moved = directory.path().join("moved");
        fs::rename(&path, &moved).expect("moved");
        fs::create_dir(&path).expect("in its way");
        log.reopen().expect_err("a directory");
        say(&log, "a\n");
        assert_eq!(read(&moved), "a\n");
    }

    #[test]
    fn lines_lost_to_a_full_disk_are_counted_and_told_of_once() {
        let (directory, path) = place();
        symlink("/dev/full", &path).expect("a link");
        let log = LogFile::open(&path, Some(8), 3).expect("opened");
        for _ in 0..3 {
            say(&log, "lost\n");
        }
        fs::remove_file(&path).expect("removed");
        let free = directory.path().join("free");
        symlink(&free, &path).expect("a link");
        log.reopen().expect("opened");
        log.set_json(false);
        say(&log, "kept\n");
        let text = read(&free);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(untimed(lines[0]), " WARN Lost 3 lines of this log: no space left on device");
        assert_eq!(lines[1..], ["kept"]);
        assert!(Path::new("/dev/full").exists());
    }

    #[test]
    fn a_log_for_programs_stays_one() {
        let (_directory, path) = place();
        symlink("/dev/full", &path).expect("a link");
        let log = LogFile::open(&path, None, 0).expect("opened");
        log.set_json(true);
        say(&log, "{}\n");
        fs::remove_file(&path).expect("removed");
        log.reopen().expect("opened");
        say(&log, "{}\n");
        let text = read(&path);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        assert_eq!(line["fields"]["message"], "Lost 1 line of this log: no space left on device");
        assert_eq!(line["level"], "WARN");
    }

    #[test]
    fn after_a_half_written_line_the_next_one_begins_afresh() {
        alone("daemon::log_file::tests::after_a_half_written_line_the_next_one_begins_afresh", || {
            // Left pending, it does not end the process.
            SigSet::from(Signal::SIGXFSZ).thread_block().expect("blocked");
            let (_directory, path) = place();
            let log = LogFile::open(&path, None, 0).expect("opened");
            let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
            setrlimit(Resource::RLIMIT_FSIZE, 10, hard).expect("limited");
            say(&log, "whole\n");
            say(&log, "half of it\n");
            say(&log, "nothing\n");
            assert_eq!(read(&path), "whole\nhalf");
            setrlimit(Resource::RLIMIT_FSIZE, hard, hard).expect("unlimited");
            say(&log, "whole\n");
            say(&log, "again\n");
            let text = read(&path);
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines[..2], ["whole", "half"]);
            assert_eq!(untimed(lines[2]), " WARN Lost 2 lines of this log: file too large");
            assert_eq!(lines[3..], ["whole", "again"]);
        });
    }

    #[test]
    fn a_line_that_was_half_written_before_the_log_was_opened_stays_alone() {
        let (_directory, path) = place();
        fs::write(&path, "whole\nhal").expect("written");
        let log = LogFile::open(&path, None, 0).expect("opened");
        say(&log, "a\n");
        fs::write(&path, "hal").expect("written");
        log.reopen().expect("opened");
        say(&log, "b\n");
        assert_eq!(read(&path), "hal\nb\n");
    }

    #[test]
    fn a_log_that_cannot_be_rotated_says_so_once_and_goes_on() {
        let (directory, path) = place();
        fs::create_dir(directory.path().join("log.1")).expect("in the way");
        let log = LogFile::open(&path, Some(4), 1).expect("opened");
        for line in ["aaa\n", "bbb\n", "ccc\n", "ddd\n"] {
            say(&log, line);
        }
        let text = read(&path);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "aaa");
        assert_eq!(untimed(lines[1]), " WARN Cannot rotate this log: is a directory; going on in the same file");
        assert_eq!(lines[2..], ["bbb", "ccc", "ddd"]);

        fs::remove_dir(directory.path().join("log.1")).expect("out of the way");
        say(&log, "eee\n");
        assert_eq!(files(&directory), named(&[("log", "eee\n"), ("log.1", &text)]));
    }

    #[test]
    fn a_rotation_that_fails_half_way_is_undone() {
        alone("daemon::log_file::tests::a_rotation_that_fails_half_way_is_undone", || {
            let (directory, path) = place();
            let log = LogFile::open(&path, Some(4), 1).expect("opened");
            say(&log, "aaa\n");
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
            setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("limited");
            say(&log, "bbb\n");
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
            let files = files(&directory);
            let [(name, text)] = &files[..] else { panic!("one file, not {files:?}") };
            assert_eq!(name, "log");
            assert!(
                text.contains("Cannot rotate this log: too many open files") && text.ends_with("\nbbb\n"),
                "{text}"
            );
        });
    }

    #[test]
    fn who_may_not_rotate_any_more_may_still_write_and_reopen() {
        const TEST: &str = "daemon::log_file::tests::who_may_not_rotate_any_more_may_still_write_and_reopen";
        if !is_root(TEST) {
            return;
        }
        alone(TEST, || {
            let (directory, path) = place();
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("set");
            let log = LogFile::open_for(&path, Some(4), 1, 65534, 65534).expect("given");
            nix::unistd::seteuid(65534.into()).expect("another user");
            say(&log, "aaa\n");
            say(&log, "bbb\n");
            log.reopen().expect("it is theirs");
            say(&log, "ccc\n");
            let text = read(&path);
            nix::unistd::seteuid(0.into()).expect("root again, to tidy up");
            let lines: Vec<_> = text.lines().collect();
            assert!(lines[1].contains("Cannot rotate this log: permission denied"), "{text}");
            assert_eq!([lines[0], lines[2], lines[3]], ["aaa", "bbb", "ccc"]);
        });
    }

    #[test]
    fn only_a_file_that_is_nothing_else_is_given_away() {
        const TEST: &str = "daemon::log_file::tests::only_a_file_that_is_nothing_else_is_given_away";
        if !is_root(TEST) {
            return;
        }
        let (directory, path) = place();
        let owner = |path: &Path| fs::symlink_metadata(path).expect("there").uid();
        let give = |path: &Path| LogFile::open_for(path, None, 0, 65534, 65534);
        let refusal = |path: &Path| give(path).expect_err("not to be given").to_string();
        let other = directory.path().join("other");
        symlink(&other, &path).expect("a link");
        assert_eq!(refusal(&path), "it is a symbolic link");
        assert!(!exists(&other));
        fs::write(&other, "root's\n").expect("written");
        assert_eq!(refusal(&path), "it is a symbolic link");

        fs::remove_file(&path).expect("removed");
        fs::hard_link(&other, &path).expect("a second name");
        assert_eq!(refusal(&path), "it has another name, too (a hard link)");
        assert_eq!((owner(&other), read(&other).as_str()), (0, "root's\n"));

        fs::remove_file(&path).expect("removed");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let _reader = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
        assert_eq!(refusal(&path), "it is neither a regular file nor a character device");
        assert_eq!(owner(&path), 0);

        let null = Path::new("/dev/null");
        let before = owner(null);
        give(null).expect("a device");
        assert_eq!(owner(null), before);

        fs::remove_file(&path).expect("removed");
        let log = give(&path).expect("a new file");
        assert_eq!(owner(&path), 65534);
        fs::rename(&path, directory.path().join("moved")).expect("moved");
        symlink(&other, &path).expect("a link");
        assert_eq!(log.reopen().expect_err("a link").to_string(), "it is a symbolic link");
    }

    #[test]
    fn a_log_of_a_start_that_failed_is_taken_back_if_it_is_new_and_empty() {
        let (_directory, path) = place();
        let open = || LogFile::open(&path, None, 0).expect("opened");
        open().take_back();
        assert!(!exists(&path));

        let log = open();
        open().take_back();
        assert!(exists(&path), "it was there before");
        say(&log, "why\n");
        log.take_back();
        assert_eq!(read(&path), "why\n");

        fs::remove_file(&path).expect("removed");
        let log = open();
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "").expect("another one");
        log.take_back();
        assert!(exists(&path), "it is somebody else's");
    }

    #[test]
    fn a_device_is_not_rotated() {
        let log = LogFile::open(Path::new("/dev/null"), Some(1), 3).expect("opened");
        say(&log, "aaa\n");
        say(&log, "bbb\n");
        assert!(Path::new("/dev/null").exists() && !Path::new("/dev/null.1").exists());
    }

    #[test]
    fn lines_of_many_threads_are_neither_mixed_nor_lost_in_rotation() {
        let (directory, path) = place();
        let log = LogFile::open(&path, Some(1000), 1000).expect("opened");
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let log = log.clone();
                scope.spawn(move || {
                    for n in 0..250 {
                        say(&log, &format!("{name} {n:030}\n"));
                    }
                });
            }
            scope.spawn(|| (0..50).for_each(|_| log.reopen().expect("opened")));
        });
        let files = files(&directory);
        assert!(files.iter().all(|(_, text)| text.len() <= 1000 && text.ends_with('\n')));
        let mut lines: Vec<_> = files.iter().flat_map(|(_, text)| text.lines()).collect();
        assert!(lines.iter().all(|line| line.len() == 32));
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 1000);
    }

    #[test]
    fn a_panic_with_the_log_in_hand_does_not_end_the_log() {
        let (_directory, path) = place();
        let log = LogFile::open(&path, None, 0).expect("opened");
        let poison = log.clone();
        let panicked = thread::spawn(move || {
            let _state = lock(&poison.0);
            std::panic::resume_unwind(Box::new("a test"));
        });
        panicked.join().expect_err("it panicked");
        say(&log, "a\n");
        log.reopen().expect("opened");
        say(&log, "b\n");
        assert_eq!(read(&path), "a\nb\n");
    }

    #[test]
    fn it_takes_the_events_of_a_subscriber() {
        let (_directory, path) = place();
        let log = LogFile::open(&path, None, 0).expect("opened");
        let subscriber = tracing_subscriber::fmt().with_writer(log).with_ansi(false).without_time().finish();
        subscriber::with_default(subscriber, || info!("Somebody wants poetry!"));
        assert!(read(&path).ends_with("Somebody wants poetry!\n"));
    }
}
