//! Files that a person named: read as text, or compared.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path};

use super::Error;

/// The longest text that is read: no person writes more, and a device has no end.
const LONGEST: u64 = 16 << 20;

/// Reads a whole text file.
///
/// # Errors
/// The file cannot be read, is longer than 16 MiB, or is not UTF-8; then the message has the line.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let cannot = |error: io::Error| Error::cannot("read", path.display(), &error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::usage(format!("{} is longer than 16 MiB: it is no file for people", path.display())));
    }
    String::from_utf8(bytes).map_err(|error| {
        let text = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = text.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::usage(format!("{}:{line}: not UTF-8", path.display()))
    })
}

/// Whether two paths name one file: the same absolute path, or the same device and inode. Files need not exist.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let absolute = |path| path::absolute(path).ok();
    absolute(one) == absolute(other) || identity(one).is_some_and(|found| identity(other) == Some(found))
}
