//! The one place that decides whether tests that need root can run.

use std::io::{self, Write as _};

/// True for root. Otherwise prints why the calling test is skipped, or fails it if
/// `VNET_REQUIRE_ROOT` is set, as `cargo xtask test` does.
///
/// # Panics
/// As told above.
#[must_use]
pub fn require_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let reason = "network namespaces and taps need root: run `sudo -E cargo xtask test`";
        assert!(std::env::var_os("VNET_REQUIRE_ROOT").is_none(), "{reason}");
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(io::stderr(), "skipped: {reason}");
    }
    root
}
