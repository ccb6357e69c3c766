//! Directories of definitions, which may go as a whole: unmounted, or not to be read for a while. Only what is
//! known to be gone takes its network along.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::definition;

/// Directories and what they were when definitions were last seen in them.
#[derive(Debug, Default)]
pub(super) struct Directories(BTreeMap<PathBuf, Identity>);

/// Device and inode.
type Identity = (u64, u64);

impl Directories {
    /// Notes what directories are before anything changes.
    pub(super) fn note<'a>(&mut self, directories: impl Iterator<Item = &'a Path>) {
        for directory in directories {
            if let Ok(identity) = identity(directory) {
                self.0.insert(directory.to_owned(), identity);
            }
        }
    }

    /// The definitions that are in a directory. Errors: why nothing is known of them.
    pub(super) fn files_in(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let cannot = |error: io::Error| format!("cannot read {}: {error}", directory.display());
        let found = definition::files_in(directory).map_err(cannot)?;
        let identity = identity(directory).map_err(cannot)?;
        let known = self.0.get(directory);
        if found.is_empty() && known.is_some_and(|known| *known != identity) {
            return Err(format!(
                "{} is another directory than before, and empty: perhaps something is not mounted",
                directory.display()
            ));
        }
        self.0.insert(directory.to_owned(), identity);
        Ok(found)
    }

    /// Whether a file has gone from a directory that is there. Errors: why that is not known.
    pub(super) fn is_gone(&mut self, file: &Path) -> Result<bool, String> {
        match file.symlink_metadata() {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match file.parent() {
                Some(directory) => self.files_in(directory).map(|_| true),
                None => Ok(true),
            },
            Err(error) => Err(format!("cannot read {}: {error}", file.display())),
        }
    }
}

fn identity(directory: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(directory)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_directory_in_the_place_of_another_says_nothing_of_its_files() {
        let root = std::env::temp_dir().join(format!("vnet-directories-{}", std::process::id()));
        let (directory, other) = (root.join("networks"), root.join("other"));
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(&other).unwrap();
        let (a, b) = (directory.join("a.xml"), directory.join("b.xml"));
        fs::write(&a, "").unwrap();
        let mut directories = Directories::default();
        directories.note([directory.as_path()].into_iter());
        assert_eq!(directories.files_in(&directory), Ok(vec![a.clone()]));
        assert_eq!(directories.is_gone(&a), Ok(false));
        assert_eq!(directories.is_gone(&b), Ok(true));

        fs::rename(&directory, root.join("aside")).unwrap();
        let error = directories.is_gone(&a).unwrap_err();
        assert!(error.contains("No such file or directory"), "{error}");
        fs::rename(&other, &directory).unwrap();
        let error = directories.files_in(&directory).unwrap_err();
        assert!(error.contains("another directory than before, and empty"), "{error}");
        assert_eq!(directories.is_gone(&a).unwrap_err(), error);

        // Once there is something in it, it is the one that counts.
        fs::write(&b, "").unwrap();
        assert_eq!(directories.files_in(&directory), Ok(vec![b.clone()]));
        assert_eq!(directories.is_gone(&a), Ok(true));
        fs::remove_file(&b).unwrap();
        assert_eq!(directories.files_in(&directory), Ok(Vec::new()));

        // A file in the way of a directory is no word on what is in it.
        fs::remove_dir(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        assert!(directories.is_gone(&a).is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
