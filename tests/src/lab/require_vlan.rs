//! The one place that decides whether tests of 802.1Q can run.

use std::io::{self, Write as _};

use super::namespace::{Ipv6Noise, Namespace};
use super::require_root::require_root;

/// True for root on a kernel with 802.1Q. Otherwise prints why the calling test is skipped, or
/// fails it if `VNET_TEST_REQUIRE` holds the word `vlan`, as in `cargo xtask test --vm`.
///
/// # Panics
/// As told above.
#[must_use]
pub fn require_vlan() -> bool {
    if !require_root() {
        return false;
    }
    let Err(refusal) = try_vlan() else { return true };
    let refusal = refusal.to_string();
    let reason = format!(
        "no 802.1Q in this kernel ({}): run `cargo xtask test --vm vlan`",
        refusal.lines().last().unwrap_or_default()
    );
    let required = std::env::var("VNET_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == "vlan"), "{reason}");
    // Past the test harness, which would keep it to itself.
    let _ = writeln!(io::stderr(), "skipped: {reason}");
    false
}

/// Makes a VLAN device and a bridge that filters by VLAN; both go with the namespace.
fn try_vlan() -> super::error::Result<()> {
    let namespace = Namespace::new("vlan-probe", Ipv6Noise::Off)?;
    namespace.run(&["ip", "link", "add", "name", "va", "type", "veth", "peer", "name", "vb"])?;
    namespace
        .run(&["ip", "link", "add", "link", "va", "name", "va.1", "type", "vlan", "id", "1"])?;
    namespace
        .run(&["ip", "link", "add", "name", "br", "type", "bridge", "vlan_filtering", "1"])
        .map(drop)
}
