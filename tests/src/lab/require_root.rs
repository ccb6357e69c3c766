//! The one place that decides whether tests that need root can run.

/// True for root. Otherwise prints why the calling test is skipped.
#[must_use]
pub fn require_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces and taps need root; run `sudo -E cargo xtask test`");
    }
    root
}
