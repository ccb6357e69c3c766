//! Whether the process may do what the loader has to do.

use std::{fs, io};

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use thiserror::Error;

/// Why the process may not load and attach BPF programs.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// The capabilities cannot be read.
    #[error("cannot read the process's capabilities from {path}: {source}; is /proc mounted?", path = STATUS)]
    Status {
        /// The error of the system call.
        source: io::Error,
    },
    /// There is no line with capabilities in the file.
    #[error("{path} has no CapEff line", path = STATUS)]
    Malformed,
    /// Capabilities are missing.
    #[error(
        "missing {}: run as root, or grant {grant} with `setcap {set}+ep` on the \
         program file or with AmbientCapabilities={grant} in its systemd unit",
        missing.join(", "),
        grant = missing.join(" "),
        set = missing.join(",").to_ascii_lowercase(),
    )]
    Missing {
        /// Names as in capabilities(7).
        missing: Vec<&'static str>,
    },
    /// The capabilities count only inside a user namespace.
    #[error(
        "running in a user namespace, where BPF programs cannot be loaded: run as root of the \
         host, not in a rootless container"
    )]
    UserNamespace,
}

/// Checks that the process may load BPF programs and attach them to interfaces.
///
/// Needed are `CAP_NET_ADMIN`, and `CAP_BPF` and `CAP_PERFMON` (Linux 5.8) or, instead of those
/// two, `CAP_SYS_ADMIN`. See `bpf_capable` in include/linux/capability.h: it asks the initial user
/// namespace.
pub fn check() -> Result<(), PrivilegeError> {
    let status = fs::read_to_string(STATUS).map_err(|source| PrivilegeError::Status { source })?;
    let effective = effective_capabilities(&status).ok_or(PrivilegeError::Malformed)?;
    let missing = missing(effective);
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing { missing });
    }
    // Without the file the kernel has no user namespaces.
    match fs::read_to_string("/proc/thread-self/uid_map") {
        Ok(map) if !is_initial_user_namespace(&map) => Err(PrivilegeError::UserNamespace),
        _ => Ok(()),
    }
}

/// Lets the process lock as much memory as its maps need.
///
/// Kernels before 5.11 count BPF memory against `RLIMIT_MEMLOCK`; later ones do not, so failure is
/// not an error here and shows when a map cannot be made.
pub fn raise_memlock_limit() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

// Capabilities belong to the thread.
const STATUS: &str = "/proc/thread-self/status";

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

fn effective_capabilities(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let wanted = [
        ("CAP_NET_ADMIN", CAP_NET_ADMIN),
        ("CAP_BPF", CAP_BPF | CAP_SYS_ADMIN),
        ("CAP_PERFMON", CAP_PERFMON | CAP_SYS_ADMIN),
    ];
    wanted.into_iter().filter(|(_, any_of)| effective & any_of == 0).map(|(name, _)| name).collect()
}

/// The initial user namespace maps every user to itself.
fn is_initial_user_namespace(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        let status = "Name:\tvnet\nCapPrm:\t0000000000000000\nCapEff:\t000001fffeffffff\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_feff_ffff));
        assert_eq!(effective_capabilities("Name:\tvnet\n"), None);
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon() {
        assert_eq!(missing(CAP_NET_ADMIN | CAP_SYS_ADMIN), Vec::<&str>::new());
        assert_eq!(missing(CAP_NET_ADMIN | CAP_BPF | CAP_PERFMON), Vec::<&str>::new());
        assert_eq!(missing(CAP_SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(CAP_NET_ADMIN | CAP_BPF), ["CAP_PERFMON"]);
        assert_eq!(missing(0), ["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn error_names_what_is_missing_and_the_fix() {
        let error = PrivilegeError::Missing { missing: vec!["CAP_BPF", "CAP_PERFMON"] };
        assert_eq!(
            error.to_string(),
            "missing CAP_BPF, CAP_PERFMON: run as root, or grant CAP_BPF CAP_PERFMON with \
             `setcap cap_bpf,cap_perfmon+ep` on the program file or with \
             AmbientCapabilities=CAP_BPF CAP_PERFMON in its systemd unit"
        );
    }

    #[test]
    fn user_namespace_shows_in_the_map() {
        assert!(is_initial_user_namespace("         0          0 4294967295\n"));
        assert!(!is_initial_user_namespace("         0       1000          1\n"));
    }
}
