//! The BPF file system, where programs, links and maps are pinned.

use std::{
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use thiserror::Error;

/// Where systemd mounts it, and everybody looks for it.
pub const DEFAULT_PATH: &str = "/sys/fs/bpf";

/// A mounted BPF file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfFs {
    /// Where it is mounted.
    pub path: PathBuf,
    /// We mounted it, so it is ours to unmount.
    pub mounted_here: bool,
}

/// Why there is no BPF file system to use.
#[derive(Debug, Error)]
pub enum BpfFsError {
    /// The mount table cannot be read.
    #[error("cannot read {path}: {source}; is /proc mounted?", path = MOUNTINFO)]
    MountInfo {
        /// The error of the system call.
        source: io::Error,
    },
    /// Mounting needs a capability.
    #[error(
        "no BPF file system is mounted, and mounting one at {DEFAULT_PATH} needs CAP_SYS_ADMIN: \
         run as root, or have it mounted beforehand with `mount -t bpf bpf {DEFAULT_PATH}`"
    )]
    NotPermitted,
    /// The kernel or sysfs offers no place for it.
    #[error(
        "no BPF file system is mounted and {DEFAULT_PATH} does not exist: mount sysfs at /sys, or \
         use a kernel with CONFIG_BPF_SYSCALL"
    )]
    NoMountPoint,
    /// The kernel does not know the file system.
    #[error(
        "the kernel has no BPF file system: use a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET"
    )]
    NotSupported,
    /// Any other failure to mount.
    #[error("cannot mount the BPF file system at {DEFAULT_PATH}: {source}")]
    Mount {
        /// The error of the system call.
        source: io::Error,
    },
    /// Failure to unmount.
    #[error("cannot unmount the BPF file system at {}: {source}", path.display())]
    Unmount {
        /// Where it is mounted.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// Finds a BPF file system that can be written to, or mounts one at [`DEFAULT_PATH`].
pub fn ensure() -> Result<BpfFs, BpfFsError> {
    if let Some(path) = find()? {
        return Ok(BpfFs { path, mounted_here: false });
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), DEFAULT_PATH, Some("bpf"), flags, Some("mode=0700")).map_err(|error| {
        match error {
            Errno::EPERM | Errno::EACCES => BpfFsError::NotPermitted,
            Errno::ENOENT => BpfFsError::NoMountPoint,
            Errno::ENODEV => BpfFsError::NotSupported,
            _ => BpfFsError::Mount { source: error.into() },
        }
    })?;
    Ok(BpfFs { path: PathBuf::from(DEFAULT_PATH), mounted_here: true })
}

/// Where a writable BPF file system is mounted: [`DEFAULT_PATH`] if it is one, else the first.
pub fn find() -> Result<Option<PathBuf>, BpfFsError> {
    let table = fs::read(MOUNTINFO).map_err(|source| BpfFsError::MountInfo { source })?;
    Ok(find_in(&table, is_bpf))
}

/// A mount on a directory above, such as a new sysfs at /sys, hides what the table still lists.
fn is_bpf(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

impl BpfFs {
    /// Unmounts it if we mounted it and nothing is pinned in it. Returns whether it did.
    pub fn release(self) -> Result<bool, BpfFsError> {
        // Without CAP_SYS_ADMIN it was not mounted, and asking to unmount it would be refused.
        if !self.mounted_here || !is_bpf(&self.path) || !is_unused(&self.path) {
            return Ok(false);
        }
        match umount2(&self.path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(true),
            // In use by somebody, or unmounted by somebody.
            Err(Errno::EBUSY | Errno::EINVAL) => Ok(false),
            Err(error) => Err(BpfFsError::Unmount { path: self.path, source: error.into() }),
        }
    }
}

// Mounts belong to the thread, and /proc/self is the process's first one.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// The kernel itself pins iterators in every new BPF file system (`bpf_preload_list` in
/// `kernel/bpf/inode.c`).
const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];

fn is_unused(path: &Path) -> bool {
    let is_preloaded =
        |entry: fs::DirEntry| PRELOADED.iter().any(|name| entry.file_name() == *name);
    fs::read_dir(path).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_preloaded)))
}

/// Reads a mount table, see `proc_pid_mountinfo(5)`. A mount may hide an earlier one at the same
/// place, so the last one counts.
fn find_in(table: &[u8], is_visible: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut found: Vec<(PathBuf, bool)> = Vec::new();
    for (path, is_bpf) in table.split(|byte| *byte == b'\n').filter_map(parse_mount) {
        found.retain(|(other, _)| *other != path);
        found.push((path, is_bpf));
    }
    let mut usable = found
        .into_iter()
        .filter(|(path, is_bpf)| *is_bpf && is_visible(path))
        .map(|(path, _)| path);
    let first = usable.next()?;
    if first == Path::new(DEFAULT_PATH) {
        return Some(first);
    }
    Some(usable.find(|path| path == Path::new(DEFAULT_PATH)).unwrap_or(first))
}

/// The mount point of a line, and whether a writable BPF file system is there.
fn parse_mount(line: &[u8]) -> Option<(PathBuf, bool)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescape(fields.nth(4)?);
    let options = fields.next()?;
    let file_system = fields.skip_while(|field| *field != b"-").nth(1)?;
    let writable = options.split(|byte| *byte == b',').any(|option| option == b"rw");
    Some((PathBuf::from(std::ffi::OsString::from_vec(path)), file_system == b"bpf" && writable))
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSFS: &str = "22 1 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n";
    const USUAL: &str = "30 22 0:27 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n";
    const OTHER: &str = "41 1 0:40 / /run/my\\040bpf rw - bpf none rw\n";

    fn find(lines: &[&str]) -> Option<PathBuf> {
        find_in(lines.concat().as_bytes(), |_| true)
    }

    #[test]
    fn mount_below_a_later_mount_does_not_count() {
        let table = [SYSFS, USUAL, SYSFS, OTHER].concat();
        let found = find_in(table.as_bytes(), |path| path != Path::new(DEFAULT_PATH));
        assert_eq!(found, Some(PathBuf::from("/run/my bpf")));
    }

    #[test]
    fn usual_place_is_preferred() {
        assert_eq!(find(&[SYSFS, OTHER, USUAL]), Some(PathBuf::from("/sys/fs/bpf")));
        assert_eq!(find(&[SYSFS, USUAL, OTHER]), Some(PathBuf::from("/sys/fs/bpf")));
    }

    #[test]
    fn any_other_place_will_do() {
        assert_eq!(find(&[SYSFS, OTHER]), Some(PathBuf::from("/run/my bpf")));
        assert_eq!(find(&[SYSFS]), None);
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn read_only_and_hidden_mounts_do_not_count() {
        assert_eq!(find(&["30 22 0:27 / /sys/fs/bpf ro,nosuid - bpf bpf rw\n"]), None);
        let hidden = "50 22 0:50 / /sys/fs/bpf rw - tmpfs tmpfs rw\n";
        assert_eq!(find(&[USUAL, hidden]), None);
    }

    #[test]
    fn optional_fields_vary_in_number() {
        let none = "30 22 0:27 / /sys/fs/bpf rw - bpf bpf rw\n";
        let two = "30 22 0:27 / /sys/fs/bpf rw shared:1 master:2 - bpf bpf rw\n";
        assert_eq!(find(&[none]), Some(PathBuf::from("/sys/fs/bpf")));
        assert_eq!(find(&[two]), Some(PathBuf::from("/sys/fs/bpf")));
    }
}
