//! A file that has its name only when it is whole: O_TMPFILE, linkat(2), rename(2).
//!
//! Until then it has no name at all, so that a process that is killed leaves nothing behind. Where the file system
//! cannot do that, it has a hidden name.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{geteuid, linkat};
use tempfile::NamedTempFile;

/// The mode of a new file, less the umask.
const MODE: u32 = 0o666;
/// How hidden names begin.
const PREFIX: &str = ".poem.";

/// A file on its way to its name.
#[derive(Debug)]
pub(crate) enum WholeFile {
    Unnamed(File),
    Hidden(NamedTempFile),
}

impl WholeFile {
    /// A file that is to be at `path`.
    ///
    /// # Errors
    /// It cannot be made; the directory is missing, for instance.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(MODE).custom_flags(OFlag::O_TMPFILE.bits());
        match options.open(directory(path)) {
            Ok(file) => Ok(Self::Unnamed(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            // EOPNOTSUPP, EISDIR: not on this file system, or by this kernel. Anything else is told by the other way.
            Err(_) => Self::hidden(path).map(Self::Hidden),
        }
    }

    fn hidden(path: &Path) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(PREFIX).permissions(Permissions::from_mode(MODE)).tempfile_in(directory(path))
    }

    /// The file itself.
    pub(crate) fn as_file(&mut self) -> &mut File {
        match self {
            Self::Unnamed(file) => file,
            Self::Hidden(file) => file.as_file_mut(),
        }
    }

    /// Gives the file its name, in the place of any other file that has it.
    ///
    /// # Errors
    /// Those of link(2) and rename(2). There is no such file then, or still the other one.
    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        let hidden = match self {
            Self::Hidden(file) => file,
            Self::Unnamed(mut file) => match link(&file, path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let linked =
                        tempfile::Builder::new().prefix(PREFIX).make_in(directory(path), |name| link(&file, name))?;
                    return linked.into_temp_path().persist(path).map_err(|error| error.error);
                }
                // No /proc, for instance.
                Err(_) => {
                    let mut copy = Self::hidden(path)?;
                    file.rewind()?;
                    io::copy(&mut file, copy.as_file_mut())?;
                    copy
                }
            },
        };
        hidden.persist(path).map(drop).map_err(|error| error.error)
    }
}

/// Gives an unnamed file a name that no other file has.
fn link(file: &File, name: &Path) -> io::Result<()> {
    // Directly, since Linux 6.10; before that root alone may, and it is ENOENT.
    match linkat(file, "", AT_FDCWD, name, AtFlags::AT_EMPTY_PATH) {
        Err(Errno::ENOENT | Errno::EPERM | Errno::EINVAL) => {}
        linked => return Ok(linked?),
    }
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(AT_FDCWD, open.as_str(), AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW)?)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file that a person named: whole or not at all. What is no ordinary file (a FIFO, a device, an open
/// descriptor), or is more than its name (other names, another owner), is written where it is.
///
/// # Errors
/// It cannot be written. A file that was not there before is not there then; one that was is as it was, if it is an
/// ordinary one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Some(place) = place(path) else { return write_there(path, bytes) };
    // A directory where nothing may be made may still have a file that may be written.
    let Ok(mut file) = WholeFile::create(&place) else { return write_there(path, bytes) };
    file.as_file().write_all(bytes)?;
    if let Ok(older) = fs::metadata(&place) {
        file.as_file().set_permissions(older.permissions())?;
    }
    // EBUSY, for instance: something is mounted there.
    file.persist(&place).or_else(|_| write_there(path, bytes))
}

/// Checks, as far as that can be known before, that [`write()`] could write this file, and leaves no trace.
///
/// # Errors
/// It could not.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // As write() does: the file itself, if nothing may be made beside it.
        Ok(found) if found.is_file() => {
            WholeFile::create(path).map(drop).or_else(|_| OpenOptions::new().append(true).open(path).map(drop))
        }
        // To open a FIFO or a device may have consequences.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => WholeFile::create(path).map(drop),
        Err(error) => Err(error),
    }
}

fn write_there(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (mut file, is_new) = match File::create_new(path) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (File::create(path)?, false),
        Err(error) => return Err(error),
    };
    file.write_all(bytes).inspect_err(|_| {
        if is_new {
            let _ = fs::remove_file(path);
        }
    })
}

/// Symbolic links that lead to a file, as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Where the file is or will be, with symbolic links followed; `None` if another one must not take its place.
fn place(path: &Path) -> Option<PathBuf> {
    let mut place = path::absolute(path).ok()?;
    for _ in 0..MOST_LINKS {
        // Names of what a process has open, /dev/stdout for one. Links there are no paths.
        if ["/dev", "/proc"].iter().any(|prefix| place.starts_with(prefix)) {
            return None;
        }
        let found = match fs::symlink_metadata(&place) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(place),
            Err(_) => return None,
        };
        if !found.is_symlink() {
            let is_its_own = found.is_file() && found.nlink() == 1 && found.uid() == geteuid().as_raw();
            return (is_its_own && !is_standard_stream(&found)).then_some(place);
        }
        place = directory(&place).join(fs::read_link(&place).ok()?);
    }
    None
}

/// Whether stdout or stderr was redirected into this file.
fn is_standard_stream(file: &fs::Metadata) -> bool {
    let is_it = |stream: &dyn AsFd| {
        let open = stream.as_fd().try_clone_to_owned().map(File::from).and_then(|open| open.metadata());
        open.is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
    };
    is_it(&io::stdout()) || is_it(&io::stderr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    #[test]
    fn either_kind_of_file_takes_its_name_at_the_end_and_replaces_an_older_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("poem.txt");
        for text in ["new", "newer"] {
            for hidden in [false, true] {
                let mut file = match hidden {
                    false => WholeFile::create(&path).expect("made"),
                    true => WholeFile::Hidden(WholeFile::hidden(&path).expect("made")),
                };
                file.as_file().write_all(text.as_bytes()).expect("written");
                assert_ne!(fs::read_to_string(&path).unwrap_or_default(), format!("{text}{hidden}"));
                file.as_file().write_all(hidden.to_string().as_bytes()).expect("written");
                file.persist(&path).expect("named");
                assert_eq!(fs::read_to_string(&path).expect("a file"), format!("{text}{hidden}"));
                assert_eq!(names(directory.path()), ["poem.txt"]);
            }
        }
    }

    #[test]
    fn a_file_that_is_dropped_or_cannot_have_its_name_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("poem.txt");
        fs::create_dir(&path).expect("made");
        for end in [false, true] {
            let mut file = WholeFile::create(&path).expect("made");
            file.as_file().write_all(b"half").expect("written");
            if end {
                assert!(file.persist(&path).is_err(), "a directory is there");
            }
        }
        assert_eq!(names(directory.path()), ["poem.txt"]);
    }

    #[test]
    fn a_name_may_be_as_long_as_names_may_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x".repeat(255));
        for text in ["one", "two"] {
            write(&path, text.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("a file"), text);
        }
    }

    #[test]
    fn what_is_more_than_a_name_stays_what_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let inode = |name: &str| fs::metadata(at(name)).expect("a file").ino();
        fs::write(at("plain"), "old").expect("written");
        fs::write(at("twin"), "old").expect("written");
        fs::hard_link(at("twin"), at("other")).expect("linked");
        symlink("plain", at("link")).expect("linked");
        symlink("new", at("dangling")).expect("linked");
        fs::set_permissions(at("plain"), Permissions::from_mode(0o600)).expect("allowed");
        let twin = inode("twin");
        for name in ["link", "twin", "dangling"] {
            write(&at(name), b"text").expect("written");
            assert_eq!(fs::read_to_string(at(name)).expect("a file"), "text");
        }
        assert!(at("link").is_symlink() && at("dangling").is_symlink());
        assert_eq!((inode("twin"), inode("other")), (twin, twin));
        assert_eq!(fs::metadata(at("plain")).expect("a file").mode() & 0o777, 0o600);
        assert_eq!(names(directory.path()), ["dangling", "link", "new", "other", "plain", "twin"]);
        assert_eq!(write(Path::new("/dev/full"), b"text").expect_err("full").kind(), io::ErrorKind::StorageFull);
        assert!(write(&at("plain").join("x"), b"text").is_err());
        for loops in ["one", "two"] {
            symlink(if loops == "one" { "two" } else { "one" }, at(loops)).expect("linked");
        }
        assert!(write(&at("one"), b"text").is_err());
    }
}
