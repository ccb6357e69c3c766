//! The last resort of a lab's teardown: whoever is still in one of its namespaces is killed.

use std::fs;
use std::process;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::MetadataExt;

/// Kills every other process whose network namespace is one of these. A process that a program in
/// the lab has left behind is not our child and would keep the namespace alive.
pub(crate) fn kill_processes_in(inodes: &[u64]) {
    for pid in processes_in(inodes) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The ids of all other processes whose network namespace is one of these.
pub(crate) fn processes_in(inodes: &[u64]) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid: &i32| pid != process::id().cast_signed())
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|namespace| inodes.contains(&namespace.ino()))
        })
        .collect()
}
