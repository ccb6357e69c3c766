//! The initramfs: the kernel unpacks a cpio archive into its first root directory.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive in cpio's "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Initramfs {
    /// A directory; those above it have to be there.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path.as_bytes(), DIRECTORY, &[])
    }

    /// An executable file.
    pub fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.entry(path.as_bytes(), PROGRAM, content)
    }

    pub fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.entry(path.as_bytes(), LINK, to.as_bytes())
    }

    /// Everything below `source`, and the directory itself, which is called `path` here.
    pub fn tree(&mut self, path: &Path, source: &Path) -> Result<()> {
        let name = path.as_os_str().as_bytes();
        if !source.is_dir() {
            let content =
                fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
            return self.entry(name, PROGRAM, &content);
        }
        self.entry(name, DIRECTORY, &[])?;
        let entries =
            fs::read_dir(source).with_context(|| format!("cannot list {}", source.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", source.display()))?;
            self.tree(&path.join(entry.file_name()), &entry.path())?;
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry(b"TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &[u8], mode: u32, content: &[u8]) -> Result<()> {
        self.inodes += 1;
        let size = u32::try_from(content.len()).context("a file is too large for an initramfs")?;
        let name_size = u32::try_from(path.len() + 1).context("a path is too long")?;
        self.bytes.extend_from_slice(b"070701");
        // Inode, mode, uid, gid, links, mtime, size, device, device of a special file, length of
        // the name with its NUL, checksum (unused).
        for field in [self.inodes, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path);
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_what_the_kernel_documents() {
        let mut initramfs = Initramfs::default();
        initramfs.program("init", b"#!").unwrap();
        let bytes = initramfs.finish().unwrap();
        let header = "070701\
            00000001000081ed0000000000000000000000010000000000000002\
            000000000000000000000000000000000000000500000000";
        assert_eq!(header.len(), 110);
        assert_eq!(&bytes[..110], header.as_bytes());
        // Name and content each fill up to a multiple of four.
        assert_eq!(&bytes[110..120], b"init\0\0#!\0\0");
        assert_eq!(&bytes[120..126], b"070701");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
