//! Whether the daemon of an instance still runs.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// Whether the process has the instance's lock open, which the daemon has from its start to its
/// end. Does not try the lock: that could make a daemon fail that starts at this moment.
pub fn is_running(directory: &Path, pid: u32) -> bool {
    fs::metadata(directory.join("lock")).is_ok_and(|lock| has_open(pid, &lock))
}

fn has_open(pid: u32, wanted: &Metadata) -> bool {
    let is_wanted = |file: Metadata| (file.dev(), file.ino()) == (wanted.dev(), wanted.ino());
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(files) => files.flatten().any(|file| fs::metadata(file.path()).is_ok_and(is_wanted)),
        // A process that we may not look into: more likely the daemon than a number used again.
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs::File, process};

    use super::*;

    #[test]
    fn only_a_process_that_has_the_file_open_counts() {
        let path = env::temp_dir().join(format!("vnet-daemon-test-{}", process::id()));
        let file = File::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let lock = file.metadata().unwrap();
        assert!(has_open(process::id(), &lock));
        assert!(!has_open(1, &lock) || !nix::unistd::geteuid().is_root());
        // Above the largest number that the kernel gives (PID_MAX_LIMIT).
        assert!(!has_open(1 << 23, &lock));
        drop(file);
        assert!(!has_open(process::id(), &lock));
    }
}
