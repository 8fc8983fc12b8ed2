//! How a server says that it is ready: the address line, a line to a descriptor, a file with the port.
//!
//! A script that connects to find out whether a server listens uses up a client of `--clients` or `--fail-first`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use tracing::info;

use super::listen::{announce, tell_addresses};
use super::stopping::Stopping;
use super::terminal::write_patiently;
use super::{Error, stdout, values};
use crate::errors::reason;

/// The flags about being ready.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ReadyArgs {
    /// Once it listens, write its address to the open descriptor N, and close it
    ///
    /// A line, with all addresses if there are several. N is one that the program was started with, as in
    /// `--ready-fd 3 3>ready`, but none of the first three.
    #[arg(long, value_name = "N", value_parser = values::whole::<i32>(3, i32::MAX as u64), allow_negative_numbers = true)]
    pub ready_fd: Option<i32>,

    /// Once it listens, write its port into FILE, which is removed at the end
    ///
    /// A line for each port if there are several. The file is there as a whole or not at all. What is there already and
    /// is neither empty nor a file of ports is left alone, and an error.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
}

/// What is to be told of a server that is ready, and where.
#[derive(Debug)]
pub struct Ready {
    /// With its number.
    descriptor: Option<(i32, OwnedFd)>,
    port_file: Option<PathBuf>,
}

impl ReadyArgs {
    /// These flags, with those of `base` where they say nothing.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self { ready_fd: self.ready_fd.or(base.ready_fd), port_file: self.port_file.or(base.port_file) }
    }

    /// Looks for what will be wrong with the port file.
    ///
    /// # Errors
    /// It cannot be written, or is somebody else's.
    pub fn check_file(&self) -> Result<(), Error> {
        let Some(path) = &self.port_file else { return Ok(()) };
        let cannot = |error| Error::cannot("write", path.display(), &error);
        PortFile::check(path).map_err(cannot)
    }

    /// Looks for what will be wrong with the descriptor, and leaves it as it is.
    ///
    /// # Errors
    /// It is not open, or not for writing.
    pub fn check_descriptor(&self) -> Result<(), Error> {
        self.ready_fd.map_or(Ok(()), |number| usable(number).map_err(|error| unusable(number, &error)))
    }

    /// Takes the descriptor over. To be called once, before anything is opened that could have its number.
    ///
    /// # Errors
    /// It is not open, or not for writing.
    pub fn take(&self) -> Result<Ready, Error> {
        let take =
            |number| take(number).map(|descriptor| (number, descriptor)).map_err(|error| unusable(number, &error));
        let cannot = |error| Error::cannot("find", "the current directory", &error);
        Ok(Ready {
            descriptor: self.ready_fd.map(take).transpose()?,
            // Absolute, so that it can be removed after chdir("/").
            port_file: self.port_file.as_ref().map(path::absolute).transpose().map_err(cannot)?,
        })
    }
}

fn unusable(number: i32, error: &io::Error) -> Error {
    Error::usage(format!("cannot use descriptor {number}: {}", reason(error)))
}

/// Whether an inherited descriptor can be written.
fn usable(number: i32) -> io::Result<()> {
    if fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
        return Err(io::Error::other("it is not open"));
    }
    // O_ACCMODE, in octal: 0 is read only.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    match flags.trim().ends_with(['0', '4']) {
        true => Err(io::Error::other("it is not open for writing")),
        false => Ok(()),
    }
}

/// Makes an inherited descriptor our own, under another number and close-on-exec, and closes it under its own.
fn take(number: i32) -> io::Result<OwnedFd> {
    usable(number)?;
    let copy = || {
        let process = pidfd_open(getpid(), PidfdFlags::empty())?;
        pidfd_getfd(process, number, PidfdGetfdFlags::empty())
    };
    // pidfd_getfd(2) may be forbidden in a container; opened anew is as good, but for sockets.
    let opened = || OpenOptions::new().append(true).open(format!("/proc/self/fd/{number}"));
    let ours = copy().map_err(io::Error::from).or_else(|error| opened().map(OwnedFd::from).map_err(|_| error))?;
    nix::unistd::close(number)?;
    Ok(ours)
}

/// Where people are told the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// On stdout, in address lines.
    OnStdout,
    /// In the log: stdout is somebody else's.
    InLog,
}

impl Ready {
    /// Says that the server listens, wherever that is to be said; the file is removed at the end. Nothing that could make
    /// it fail to serve may be left.
    ///
    /// # Errors
    /// One of them cannot be written. That nobody reads stdout, or the descriptor, is no error.
    pub fn tell(self, lines: &[(String, SocketAddr)], to: Announce, stopping: &Stopping) -> Result<(), Error> {
        let Self { descriptor, port_file } = self;
        // In the order in which a failure is heard by the fewest. A device that is full says so before it is written.
        if to == Announce::OnStdout {
            stdout::check()?;
        }
        if let Some(path) = port_file {
            let ports: String = lines.iter().map(|(_, address)| format!("{}\n", address.port())).collect();
            let file =
                PortFile::write(&path, &ports).map_err(|error| Error::cannot("write", path.display(), &error))?;
            stopping.at_the_end(move || drop(file));
        }
        if let Some((number, descriptor)) = descriptor {
            let addresses: Vec<String> = lines.iter().map(|(_, address)| address.to_string()).collect();
            let written = write_line(&descriptor, &format!("{}\n", addresses.join(" ")));
            written.map_err(|error| Error::cannot("write", format!("descriptor {number}"), &error))?;
        }
        lines.iter().for_each(|(_, address)| tell_addresses(*address));
        match to {
            Announce::OnStdout => lines.iter().try_for_each(|(what, address)| announce(what, *address)),
            Announce::InLog => {
                lines.iter().for_each(|(what, address)| info!(%address, "{what} on {address}"));
                Ok(())
            }
        }
    }
}

fn write_line(descriptor: &impl AsFd, line: &str) -> io::Result<()> {
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match write_patiently(descriptor, rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Nobody waits any more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A file with the ports of a server, a line each, until it is dropped.
#[derive(Debug)]
struct PortFile {
    path: PathBuf,
    /// Open as long as it is ours: no other file can have its inode meanwhile.
    file: File,
    ports: String,
}

impl PortFile {
    /// Looks whether it could be written.
    fn check(path: &Path) -> io::Result<()> {
        free(path)?;
        access(directory(path), AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from)
    }

    /// Writes the file under another name and renames it: whoever sees it sees all of it.
    fn write(path: &Path, ports: &str) -> io::Result<Self> {
        free(path)?;
        // As for any new file, less the umask.
        let mode = Permissions::from_mode(0o666);
        let new = tempfile::Builder::new().permissions(mode).prefix(".port-").tempfile_in(directory(path));
        let mut file = new?;
        file.write_all(ports.as_bytes())?;
        let file = file.persist(path).map_err(|error| error.error)?;
        Ok(Self { path: path.to_owned(), file, ports: ports.to_owned() })
    }

    /// Whether the path still leads to the file as it was written.
    fn is_ours(&self) -> io::Result<bool> {
        let (found, ours) = (fs::symlink_metadata(&self.path)?, self.file.metadata()?);
        let is_same = (found.dev(), found.ino()) == (ours.dev(), ours.ino());
        Ok(is_same && fs::read(&self.path)? == self.ports.as_bytes())
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// More is in no file of ports.
const LONGEST: u64 = 64 * 1024;

/// Whether nothing is at this path that a port file must not replace: it is empty, or another one of them, which a crash
/// has left.
fn free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        // What is renamed over, and removed in the end, must not be /dev/null.
        Ok(found) if !found.is_file() => return Err(io::Error::other("it is there, and no regular file")),
        Ok(_) => {}
    }
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    let is_port = |line: &[u8]| str::from_utf8(line).is_ok_and(|line| line.parse::<u16>().is_ok());
    let mut lines = text.strip_suffix(b"\n").unwrap_or(&text).split(|&byte| byte == b'\n');
    match text.is_empty() || lines.all(is_port) {
        true => Ok(()),
        false => Err(io::Error::other("it is there, and no file of ports")),
    }
}

impl Drop for PortFile {
    fn drop(&mut self) {
        // Not that of another server, which has taken the place, nor what somebody has written into it.
        if self.is_ours().is_ok_and(|it| it) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_file_is_whole_and_goes_with_its_server_and_not_with_another_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("port");
        fs::write(&path, "left by a crash, and longer".len().to_string()).expect("written");
        let file = PortFile::write(&path, "10000\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "10000\n");
        assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 1);
        let other = PortFile::write(&path, "10001\n").expect("written");
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("the other one's"), "10001\n");
        drop(other);
        assert!(!path.exists());
        symlink("/dev/null", &path).expect("a link");
        for other in [directory.path(), &path] {
            let error = PortFile::write(other, "10000\n").expect_err("no file");
            assert_eq!(error.to_string(), "it is there, and no regular file");
        }
        PortFile::write(&directory.path().join("no/port"), "10000\n").expect_err("nowhere");
    }

    #[test]
    fn a_file_of_somebody_else_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("port");
        for foreign in [&b"a poem\n"[..], b"10000\na poem\n", b"\n", b"10000 ", b"65536\n", b"\xff", b"-1"] {
            fs::write(&path, foreign).expect("written");
            for refused in [PortFile::write(&path, "1\n").map(drop), PortFile::check(&path)] {
                let error = refused.expect_err("it is foreign");
                assert_eq!(error.to_string(), "it is there, and no file of ports", "{foreign:?}");
            }
            assert_eq!(fs::read(&path).expect("a file"), foreign);
        }
        for left in [&b""[..], b"10000", b"10000\n", b"10000\n10001\n"] {
            fs::write(&path, left).expect("written");
            PortFile::check(&path).expect("it is free");
            drop(PortFile::write(&path, "1\n").expect("written"));
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_is_no_longer_its_own_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("port");
        let file = PortFile::write(&path, "10000\n").expect("written");
        fs::write(&path, "a poem\n").expect("written in its place");
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("a file"), "a poem\n");
        fs::remove_file(&path).expect("removed");
        let file = PortFile::write(&path, "10000\n").expect("written");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "10000\n").expect("another one");
        drop(file);
        assert_eq!(fs::read_to_string(&path).expect("a file"), "10000\n");
    }
}
