//! Whether the daemon of an instance still runs.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// Whether the process holds the lock in the instance's directory. Asks the kernel's list instead
/// of trying the lock, which could make a daemon fail that starts at this moment.
pub fn is_running(directory: &Path, pid: u32) -> bool {
    let Ok(lock) = fs::metadata(directory.join("lock")) else { return false };
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return false };
    holds(&locks, pid, lock.ino())
}

/// Reads `/proc/locks`, see `lock_get_status` in the kernel's `fs/locks.c`:
/// `NUMBER: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END`, `->` in front of the second word
/// of those that wait.
fn holds(locks: &str, pid: u32, inode: u64) -> bool {
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", holder, file, ..] = words[..] else { return false };
        let file_inode = file.rsplit(':').next().and_then(|text| text.parse().ok());
        holder.parse() == Ok(pid) && file_inode == Some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: FLOCK  ADVISORY  WRITE 20009 00:1b:479440 0 EOF
1: -> FLOCK  ADVISORY  WRITE 20010 00:1b:479440 0 EOF
2: FLOCK  ADVISORY  READ 20011 00:1b:479440 0 EOF
3: POSIX  ADVISORY  WRITE 20012 00:1b:479440 0 EOF
";

    #[test]
    fn only_the_holder_of_the_exclusive_lock_is_the_daemon() {
        assert!(holds(LOCKS, 20009, 479_440));
        for other in [20010, 20011, 20012, 1] {
            assert!(!holds(LOCKS, other, 479_440), "{other}");
        }
        assert!(!holds(LOCKS, 20009, 479_441));
    }
}
