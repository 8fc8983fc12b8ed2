//! How a server says that it is ready: the address line, a line to a descriptor, a file with the port.
//!
//! A script that connects to find out whether a server listens uses up a client of `--clients` or `--fail-first`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::Error;
use super::listen::announce;
use super::stopping::Stopping;
use super::terminal::write_patiently;
use crate::errors::reason;

/// The flags about being ready.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ReadyArgs {
    /// Once it listens, write its address to the open descriptor N, and close it
    ///
    /// A line, with all addresses if there are several. N is one that the program was started with, as in
    /// `--ready-fd 3 3>ready`, but none of the first three.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..), allow_hyphen_values = true)]
    pub ready_fd: Option<i32>,

    /// Once it listens, write its port into FILE, which is removed at the end
    ///
    /// A line for each port if there are several. The file is there as a whole or not at all.
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

    /// Takes the descriptor over. To be called once, before anything is opened that could have its number.
    ///
    /// # Errors
    /// It is not open, or not for writing.
    pub fn take(&self) -> Result<Ready, Error> {
        let take = |number| match take(number) {
            Ok(descriptor) => Ok((number, descriptor)),
            Err(error) => Err(Error::usage(format!("cannot use descriptor {number}: {}", reason(&error)))),
        };
        let cannot = |error| Error::cannot("find", "the current directory", &error);
        Ok(Ready {
            descriptor: self.ready_fd.map(take).transpose()?,
            // Absolute, so that it can be removed after chdir("/").
            port_file: self.port_file.as_ref().map(path::absolute).transpose().map_err(cannot)?,
        })
    }
}

/// Makes an inherited descriptor our own, under another number and close-on-exec, and closes it under its own.
fn take(number: i32) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{number}");
    if fs::symlink_metadata(&path).is_err() {
        return Err(io::Error::other("it is not open"));
    }
    // O_ACCMODE, in octal: 0 is read only.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
    if flags.trim().ends_with(['0', '4']) {
        return Err(io::Error::other("it is not open for writing"));
    }
    let copy = || {
        let process = pidfd_open(getpid(), PidfdFlags::empty())?;
        pidfd_getfd(process, number, PidfdGetfdFlags::empty())
    };
    // pidfd_getfd(2) may be forbidden in a container; opened anew is as good, but for sockets.
    let ours = copy().map_err(io::Error::from).or_else(|error| match OpenOptions::new().append(true).open(&path) {
        Ok(file) => Ok(file.into()),
        Err(_) => Err(error),
    })?;
    nix::unistd::close(number)?;
    Ok(ours)
}

impl Ready {
    /// Says that the server listens, wherever that is to be said; the file is removed at the end. Nothing that could make
    /// it fail to serve may be left.
    ///
    /// # Errors
    /// One of them cannot be written. That nobody reads stdout, or the descriptor, is no error.
    pub fn tell(self, lines: &[(String, SocketAddr)], stopping: &Stopping) -> Result<(), Error> {
        let Self { descriptor, port_file } = self;
        // The file first: if that fails nobody has heard anything.
        if let Some(path) = port_file {
            let ports: String = lines.iter().map(|(_, address)| format!("{}\n", address.port())).collect();
            let file =
                PortFile::write(&path, &ports).map_err(|error| Error::cannot("write", path.display(), &error))?;
            stopping.at_the_end(move || drop(file));
        }
        lines.iter().try_for_each(|(what, address)| announce(what, *address))?;
        if let Some((number, descriptor)) = descriptor {
            let addresses: Vec<String> = lines.iter().map(|(_, address)| address.to_string()).collect();
            let written = write_line(&descriptor, &format!("{}\n", addresses.join(" ")));
            written.map_err(|error| Error::cannot("write", format!("descriptor {number}"), &error))?;
        }
        Ok(())
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
    /// Device and inode.
    identity: (u64, u64),
}

impl PortFile {
    /// Writes the file under another name and renames it: whoever sees it sees all of it.
    fn write(path: &Path, ports: &str) -> io::Result<Self> {
        // What is renamed over, and removed in the end, must not be /dev/null.
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other("it is there, and no regular file"));
        }
        let directory = path.parent().unwrap_or(path);
        // As for any new file, less the umask.
        let mode = Permissions::from_mode(0o666);
        let mut file = tempfile::Builder::new().permissions(mode).prefix(".port-").tempfile_in(directory)?;
        file.write_all(ports.as_bytes())?;
        let file = file.persist(path).map_err(|error| error.error)?;
        Ok(Self { path: path.to_owned(), identity: identity(&file.metadata()?) })
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for PortFile {
    fn drop(&mut self) {
        // Not that of another server, which has taken the place.
        if File::open(&self.path).and_then(|file| file.metadata()).is_ok_and(|found| identity(&found) == self.identity)
        {
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
        fs::write(&path, "left by a crash, and longer").expect("written");
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
}
