//! A poem: bytes, read once, shared by all connections that send them; and where it comes from.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};
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

    /// The poem's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The poems in the programs themselves, by name: examples work wherever they are installed.
const BUILT_IN: [(&str, &[u8]); 6] = [
    ("ecstasy", include_bytes!("../poetry/ecstasy.txt")),
    ("fascination", include_bytes!("../poetry/fascination.txt")),
    ("jingyesi", include_bytes!("../poetry/jingyesi.txt")),
    ("lyubil", include_bytes!("../poetry/lyubil.txt")),
    ("science", include_bytes!("../poetry/science.txt")),
    ("sera", include_bytes!("../poetry/sera.txt")),
];

/// A poem by its name: a file, or one that is in the programs themselves. Its [`fmt::Display`] is as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPoem {
    name: PathBuf,
    /// The bytes of a poem that is built in. They never change.
    built_in: Option<&'static [u8]>,
}

impl NamedPoem {
    /// The poem that somebody named: a file, or if there is none of this name, a poem that is built in. What it is does
    /// not change later, whatever becomes of the file.
    pub fn find(name: &Path) -> Self {
        let poem = BUILT_IN.iter().find(|(built_in, _)| name.as_os_str() == OsStr::new(built_in));
        let built_in = poem.filter(|_| !name.exists()).map(|(_, bytes)| *bytes);
        Self { name: name.to_owned(), built_in }
    }

    /// The same, wherever the process goes (chdir(2)).
    ///
    /// # Errors
    /// There is no current directory.
    pub fn absolute(&self) -> io::Result<Self> {
        match self.built_in {
            Some(_) => Ok(self.clone()),
            None => Ok(Self { name: path::absolute(&self.name)?, built_in: None }),
        }
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        self.built_in.is_none().then_some(&self.name)
    }

    /// The name as a path, be there a file or not.
    pub fn path(&self) -> &Path {
        &self.name
    }

    /// The length, if it is known before the poem is read: of a regular file, or of what is built in.
    pub fn known_len(&self) -> Option<u64> {
        match self.built_in {
            Some(bytes) => Some(bytes.len() as u64),
            None => fs::metadata(&self.name).ok().filter(fs::Metadata::is_file).map(|file| file.len()),
        }
    }

    /// The whole poem.
    ///
    /// # Errors
    /// As for [`Poem::load`].
    pub fn load(&self) -> io::Result<Poem> {
        match self.built_in {
            Some(bytes) => Ok(bytes.into()),
            None => Poem::load(&self.name).map_err(|error| self.explain(error)),
        }
    }

    /// Checks that it could be served: by stat(2), and by open(2) if it is a regular file. Nothing is read, for it may be
    /// a pipe.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn check(&self) -> io::Result<()> {
        let Some(file) = self.file() else { return Ok(()) };
        let kind = fs::metadata(file).map_err(|error| self.explain(error))?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if kind.is_file() {
            fs::File::open(file)?;
        }
        Ok(())
    }

    /// A word that names neither a file nor a poem may be a name with a slip in it.
    fn explain(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::NotFound || self.name.components().count() != 1 {
            return error;
        }
        let names = BUILT_IN.map(|(name, _)| name).join(", ");
        io::Error::new(error.kind(), format!("no such file or directory; built in are {names}"))
    }
}

impl fmt::Display for NamedPoem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.display().fmt(f)
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
        let check = |path: &Path| NamedPoem::find(path).check();
        let missing = dir.path().join("missing");
        assert_eq!(check(dir.path()).expect_err("dir").kind(), io::ErrorKind::IsADirectory);
        assert_eq!(check(&missing).expect_err("missing").kind(), io::ErrorKind::NotFound);
        fs::write(&missing, "").expect("write");
        check(&missing).expect("an empty poem is a poem");
        check(Path::new("sera")).expect("built in");
    }

    #[test]
    fn every_poem_of_the_repository_is_built_in() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("poetry");
        let mut files = 0;
        for path in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            let named = NamedPoem::find(Path::new(path.file_stem().expect("a name")));
            assert_eq!(named.file(), None);
            assert_eq!(named.load().expect("built in"), Poem::load(&path).expect("a file"));
            files += 1;
        }
        assert_eq!(files, BUILT_IN.len());
    }

    #[test]
    fn only_a_bare_name_without_a_file_is_built_in() {
        let error = NamedPoem::find(Path::new("./sera")).load().expect_err("no such file");
        assert_eq!(error.raw_os_error(), Some(2), "{error}");
        let error = NamedPoem::find(Path::new("serra")).check().expect_err("no such poem");
        let names = "ecstasy, fascination, jingyesi, lyubil, science, sera";
        assert_eq!(error.to_string(), format!("no such file or directory; built in are {names}"));
        // A file that is there, in the directory in which tests run.
        let named = NamedPoem::find(Path::new("src"));
        assert_eq!(named.file(), Some(Path::new("src")));
    }
}
