//! A poem: bytes, read once, shared by all connections that send them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a poem. A clone is another handle to the same bytes.
///
/// A poem is never decoded, re-encoded or assumed to be UTF-8; an empty one is legal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poem(Arc<Vec<u8>>);

impl Poem {
    /// Reads a whole file, of any size that fits into memory.
    ///
    /// # Errors
    /// Those of open(2) and read(2); a directory is refused like any other unreadable file.
    pub fn load(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(fs::read(path)?)))
    }

    /// Checks that `path` could be served: by stat(2), and by open(2) if it is a regular file. Nothing is read, for it
    /// may be a pipe.
    ///
    /// # Errors
    /// As for [`Poem::load`].
    pub fn check(path: &Path) -> io::Result<()> {
        let kind = fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if kind.is_file() {
            fs::File::open(path)?;
        }
        Ok(())
    }

    /// The poem's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Poem {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl From<&[u8]> for Poem {
    fn from(bytes: &[u8]) -> Self {
        Self(Arc::new(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poem_is_the_bytes_of_its_file() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let bytes: Vec<u8> = (0..=255).chain(*b"\r\n\0").collect();
        fs::write(file.path(), &bytes).expect("write");
        assert_eq!(Poem::load(file.path()).expect("load").bytes(), bytes);
    }

    #[test]
    fn what_cannot_be_served_is_told_from_what_can() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let missing = dir.path().join("missing");
        assert_eq!(Poem::check(dir.path()).expect_err("dir").kind(), io::ErrorKind::IsADirectory);
        assert_eq!(Poem::check(&missing).expect_err("missing").kind(), io::ErrorKind::NotFound);
        fs::write(&missing, "").expect("write");
        Poem::check(&missing).expect("an empty poem is a poem");
    }
}
