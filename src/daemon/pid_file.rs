//! A pid file: it names the process of a service, and keeps a second process out.
//!
//! The flock(2) decides, not the number: the kernel releases the lock when the process ends, however it ends. So a file
//! that a crash left behind is no obstacle, and a pid that another process has by now misleads nobody.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};
use std::process;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::names;
use crate::errors::reason;

/// A pid file that is ours until it is dropped.
///
/// Dropping it removes the file; where that is no longer allowed, after privileges were dropped, it is emptied.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// Why there is no pid file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the lock.
    #[error("locked by {}", holder(*pid))]
    Held {
        /// Its pid, if it has been written.
        pid: Option<u32>,
    },
    /// The file cannot be used.
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl PidFile {
    /// Takes the file, locks it (flock(2)) and writes the number of this process and a newline into it.
    ///
    /// # Errors
    /// Another process holds the lock, or the file cannot be opened, locked or written, or is no regular file. Symbolic
    /// links and files with a second name (hard links) are refused: where others may write, that could be any of root's
    /// files.
    pub fn create(path: &Path) -> Result<Self, Error> {
        // Absolute, so that the file can be removed after chdir("/").
        let path = path::absolute(path)?;
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o644);
            let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path).map_err(|error| {
                let is_link = error.raw_os_error() == Some(Errno::ELOOP as i32);
                if is_link { irregular() } else { error }
            })?;
            if let Some(mut locked) = Self::lock(&path, file)? {
                locked.file.set_len(0)?;
                locked.file.write_all(format!("{}\n", process::id()).as_bytes())?;
                return Ok(locked);
            }
        }
    }

    /// `None` if the file was removed between open(2) and flock(2): its last owner has just ended.
    fn lock(path: &Path, file: File) -> Result<Option<Self>, Error> {
        let metadata = file.metadata()?;
        // 0 names: removed meanwhile, which the check below finds.
        if !metadata.is_file() || metadata.nlink() > 1 {
            return Err(irregular().into());
        }
        match file.try_lock() {
            Ok(()) => Ok(names(path, &file).then(|| Self { path: path.to_owned(), file })),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder of the lock may not have written its pid yet.
                let _ = file.take(16).read_to_string(&mut text);
                Err(Error::Held { pid: text.trim().parse().ok() })
            }
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Under the lock: a process that has opened the file meanwhile finds it removed once it gets the lock.
        if names(&self.path, &self.file) && fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
        // close(2) alone would not unlock while a child process between fork(2) and exec(2) has the descriptor.
        let _ = self.file.unlock();
    }
}

fn irregular() -> io::Error {
    io::Error::other("not a regular file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Stdio;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;
    use crate::test_process::{again, is_root, part};

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("poetryd.pid");
        (directory, path)
    }

    fn open(path: &Path) -> File {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).expect("opened")
    }

    #[test]
    fn it_names_this_process_and_goes_with_its_owner() {
        let (_directory, path) = place();
        let file = PidFile::create(&path).expect("created");
        assert_eq!(fs::read_to_string(&path).expect("read"), format!("{}\n", process::id()));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_pid_file_is_no_obstacle() {
        let (_directory, path) = place();
        fs::write(&path, "4194304 and a long rest\n").expect("written");
        let _file = PidFile::create(&path).expect("created");
        assert_eq!(fs::read_to_string(&path).expect("read"), format!("{}\n", process::id()));
    }

    #[test]
    fn a_second_owner_is_told_who_the_first_is_and_leaves_the_file_alone() {
        let (_directory, path) = place();
        let _file = PidFile::create(&path).expect("created");
        let error = PidFile::create(&path).expect_err("it is taken");
        assert_eq!(error.to_string(), format!("locked by process {}", process::id()));
        assert_eq!(fs::read_to_string(&path).expect("read"), format!("{}\n", process::id()));
    }

    #[test]
    fn an_owner_who_has_not_written_yet_has_no_name() {
        let (_directory, path) = place();
        let file = open(&path);
        file.lock().expect("locked");
        let error = PidFile::create(&path).expect_err("it is taken");
        assert_eq!(error.to_string(), "locked by another process");
    }

    #[test]
    fn the_file_of_a_killed_owner_is_stale() {
        const TEST: &str = "daemon::pid_file::tests::the_file_of_a_killed_owner_is_stale";
        if let Some(path) = part(TEST) {
            let _file = PidFile::create(Path::new(&path)).expect("created");
            io::stdout().write_all(b"held\n").expect("told");
            // Until it is killed, or there is no test any more.
            io::stdin().read_line(&mut String::new()).expect("the end");
            return;
        }
        let (_directory, path) = place();
        let mut owner = again(TEST, path.to_str().expect("UTF-8"));
        let mut owner = owner.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let mut said = Vec::new();
        let mut stdout = owner.stdout.take().expect("a pipe");
        while !said.ends_with(b"held\n") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).expect("told");
            said.push(byte[0]);
        }
        assert!(matches!(PidFile::create(&path), Err(Error::Held { pid: Some(pid) }) if pid == owner.id()));
        owner.kill().expect("killed");
        owner.wait().expect("reaped");
        assert!(path.exists());
        PidFile::create(&path).expect("created");
    }

    #[test]
    fn a_file_that_was_removed_before_it_was_locked_is_no_lock() {
        let (_directory, path) = place();
        let file = open(&path);
        fs::remove_file(&path).expect("removed");
        assert!(PidFile::lock(&path, file).expect("no error").is_none());

        let file = open(&path);
        fs::remove_file(&path).expect("removed");
        let _other = open(&path);
        assert!(PidFile::lock(&path, file).expect("no error").is_none());
    }

    #[test]
    fn a_file_put_in_its_place_is_not_removed() {
        let (_directory, path) = place();
        let file = PidFile::create(&path).expect("created");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "somebody else's").expect("written");
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("read"), "somebody else's");
    }

    #[test]
    fn of_many_who_come_and_go_there_is_never_more_than_one() {
        let (_directory, path) = place();
        let (holders, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while turns.load(Ordering::SeqCst) < 200 {
                        match PidFile::create(&path) {
                            Ok(file) => {
                                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                                turns.fetch_add(1, Ordering::SeqCst);
                                holders.fetch_sub(1, Ordering::SeqCst);
                                drop(file);
                            }
                            Err(Error::Held { .. }) => thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn what_is_no_regular_file_is_neither_taken_nor_removed() {
        let error = PidFile::create(Path::new("/dev/null")).expect_err("a device");
        assert_eq!(error.to_string(), "not a regular file");
        assert!(Path::new("/dev/null").exists());
    }

    #[test]
    fn a_name_that_leads_to_another_file_is_not_taken() {
        let (directory, path) = place();
        let other = directory.path().join("other");
        fs::write(&other, "root's").expect("written");
        let links: [fn(&Path, &Path) -> io::Result<()>; 2] = [|to, at| symlink(to, at), |to, at| fs::hard_link(to, at)];
        for link in links {
            link(&other, &path).expect("a link");
            let error = PidFile::create(&path).expect_err("a link");
            assert_eq!(error.to_string(), "not a regular file");
            assert_eq!(fs::read_to_string(&other).expect("as it was"), "root's");
            fs::remove_file(&path).expect("removed");
        }
        symlink(directory.path().join("none"), &path).expect("a link to nothing");
        PidFile::create(&path).expect_err("a link");
        assert!(!directory.path().join("none").exists());
    }

    #[test]
    fn a_place_that_is_not_there_is_an_error() {
        let (directory, _) = place();
        let error = PidFile::create(&directory.path().join("no/such/place.pid")).expect_err("no place");
        assert_eq!(error.to_string(), "no such file or directory");
    }

    #[test]
    fn who_may_not_remove_it_any_more_empties_it() {
        const TEST: &str = "daemon::pid_file::tests::who_may_not_remove_it_any_more_empties_it";
        if !is_root(TEST) {
            return;
        }
        crate::test_process::alone(TEST, || {
            let (_directory, path) = place();
            fs::set_permissions(path.parent().expect("a directory"), fs::Permissions::from_mode(0o755)).expect("set");
            let file = PidFile::create(&path).expect("created");
            nix::unistd::seteuid(65534.into()).expect("another user");
            drop(file);
            assert_eq!(fs::read_to_string(&path).expect("still there"), "");
            nix::unistd::seteuid(0.into()).expect("root again, to tidy up");
            PidFile::create(&path).expect("no obstacle");
        });
    }
}
