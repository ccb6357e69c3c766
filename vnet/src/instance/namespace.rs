//! Network namespaces, to tell apart those of two runs of one instance.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The inode that stands for the calling thread's network namespace; see namespaces(7).
pub(super) fn current() -> io::Result<u64> {
    fs::metadata("/proc/thread-self/ns/net").map(|metadata| metadata.ino())
}

/// A path to a network namespace, for `nsenter --net=PATH`. `None` if no process is in it and it is
/// not mounted, as `ip netns` does: then it has most likely gone.
pub(super) fn find(inode: u64) -> Option<PathBuf> {
    mounted(inode).or_else(|| in_use(inode))
}

fn mounted(inode: u64) -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    let root = format!("net:[{inode}]");
    // proc_pid_mountinfo(5): the root of the mount, then where it is mounted.
    let point = table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        (fields.next()? == root).then(|| fields.next())?
    });
    point.map(PathBuf::from)
}

fn in_use(inode: u64) -> Option<PathBuf> {
    fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let path = Path::new("/proc").join(entry.file_name()).join("ns/net");
        fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == inode).then_some(path)
    })
}
