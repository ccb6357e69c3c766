//! The one place that decides whether tests of what not every kernel has can run.

use std::io::{self, Write as _};

use super::error::Result;
use super::namespace::{Ipv6Noise, Namespace};
use super::require_root::require_root;
use super::services::kernel_has_sctp;

/// True for root on a kernel with 802.1Q and bridges that filter by VLAN.
///
/// Otherwise prints why the calling test is skipped, or fails it if `VNET_TEST_REQUIRE` holds the
/// word `vlan`, as in `cargo xtask test --vm`; so do the other functions here with their words.
///
/// # Panics
/// As told above.
#[must_use]
pub fn require_vlan() -> bool {
    require("vlan", "802.1Q", |namespace| {
        let add = ["ip", "link", "add"];
        run(namespace, &add, &["name", "va", "type", "veth", "peer", "name", "vb"])?;
        run(namespace, &add, &["link", "va", "name", "va.1", "type", "vlan", "id", "1"])?;
        run(namespace, &add, &["name", "br", "type", "bridge", "vlan_filtering", "1"])
    })
}

/// True for root on a kernel with SCTP; word `sctp`.
///
/// # Panics
/// As [`require_vlan`].
#[must_use]
pub fn require_sctp() -> bool {
    require("sctp", "SCTP", kernel_has_sctp)
}

/// True for root on a kernel with GRE tunnels of both families; word `gre`.
///
/// # Panics
/// As [`require_vlan`].
#[must_use]
pub fn require_gre() -> bool {
    require("gre", "GRE tunnels", |namespace| {
        let add = ["ip", "link", "add"];
        let ends = ["local", "192.0.2.1", "remote", "192.0.2.2"];
        run(namespace, &[&add[..], &["name", "a", "type", "gre"]].concat(), &ends)?;
        let ends = ["local", "2001:db8::1", "remote", "2001:db8::2"];
        run(namespace, &[&add[..], &["name", "b", "type", "ip6gre"]].concat(), &ends)
    })
}

/// True for root on a kernel with ESP of both families; word `esp`.
///
/// # Panics
/// As [`require_vlan`].
#[must_use]
pub fn require_esp() -> bool {
    require("esp", "ESP", |namespace| {
        let add = ["ip", "xfrm", "state", "add"];
        let keys = ["proto", "esp", "spi", "1", "mode", "tunnel", "enc", "ecb(cipher_null)", ""];
        for [source, destination] in [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]] {
            let ends = ["src", source, "dst", destination];
            run(namespace, &[&add[..], &ends].concat(), &keys)?;
        }
        Ok(())
    })
}

/// True for root on a kernel with bonds; word `bond`.
///
/// # Panics
/// As [`require_vlan`].
#[must_use]
pub fn require_bonding() -> bool {
    require("bond", "bonding", |namespace| {
        run(namespace, &["ip", "link", "add"], &["name", "bond", "type", "bond"])
    })
}

fn run(namespace: &Namespace, command: &[&str], arguments: &[&str]) -> Result<()> {
    namespace.run(&[command, arguments].concat()).map(drop)
}

/// Runs `probe` in a namespace of its own, with which goes what it has made.
fn require(word: &str, what: &str, probe: impl Fn(&Namespace) -> Result<()>) -> bool {
    if !require_root() {
        return false;
    }
    let tried = Namespace::new(word, Ipv6Noise::Off).and_then(|namespace| probe(&namespace));
    let Err(refusal) = tried else { return true };
    let refusal = refusal.to_string();
    let reason = format!(
        "no {what} in this kernel ({}): run `cargo xtask test --vm {word}`",
        refusal.lines().last().unwrap_or_default()
    );
    skip(word, &reason)
}

/// Prints why the calling test is skipped, or fails it if it is required; false.
pub(crate) fn skip(word: &str, reason: &str) -> bool {
    let required = std::env::var("VNET_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|required| required == word), "{reason}");
    // Past the test harness, which would keep it to itself.
    let _ = writeln!(io::stderr(), "skipped: {reason}");
    false
}
