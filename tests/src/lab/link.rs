//! Bringing interfaces up, and waiting until they carry packets.

use std::time::Duration;

use super::background::wait_until;
use super::error::Result;
use super::namespace::Namespace;

/// How long an interface may take until it carries packets.
const LINK_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of IP packet on an ordinary Ethernet.
pub(crate) const ETHERNET_MTU: u32 = 1500;

pub(crate) fn bring_up(
    namespace: &Namespace,
    interface: &str,
    mac: &str,
    mtu: u32,
    addresses: &[String],
    gateways: &[String],
) -> Result<()> {
    if has_ipv6(addresses) {
        namespace.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
    }
    let mut lines = vec![format!("link set {interface} address {mac} mtu {mtu} up")];
    lines.extend(addresses.iter().map(|a| format!("address add {a} dev {interface}")));
    lines.extend(gateways.iter().map(|g| format!("route add default via {g} dev {interface}")));
    namespace.ip_batch(&lines)
}

/// An interface's queue drops everything until the kernel has noticed that the other end is up.
pub(crate) fn wait_for_link(namespace: &Namespace, interface: &str) -> Result<()> {
    wait_for_file(namespace, &format!("/sys/class/net/{interface}/operstate"), &["up", "unknown"])
}

/// 3 is `BR_STATE_FORWARDING`, `include/uapi/linux/if_bridge.h`.
pub(crate) fn wait_for_port(namespace: &Namespace, port: &str) -> Result<()> {
    wait_for_file(namespace, &format!("/sys/class/net/{port}/brport/state"), &["3"])
}

fn wait_for_file(namespace: &Namespace, path: &str, wanted: &[&str]) -> Result<()> {
    let what = format!("{path} in {} is one of {wanted:?}", namespace.name());
    namespace.enter(|| {
        wait_until(&what, LINK_DEADLINE, || match std::fs::read_to_string(path) {
            Ok(value) if wanted.contains(&value.trim_end()) => Ok(()),
            Ok(value) => Err(value),
            Err(error) => Err(error.to_string()),
        })
    })?
}

pub(crate) fn offloads_off(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut arguments = vec!["ethtool", "-K", interface];
    for feature in ["tx", "tso", "gso", "gro"] {
        arguments.extend([feature, "off"]);
    }
    namespace.run(&arguments).map(drop)
}

pub(crate) fn has_ipv6(addresses: &[String]) -> bool {
    addresses.iter().any(|address| address.contains(':'))
}

pub(crate) fn mac(prefix: &str, serial: u16) -> String {
    let [high, low] = serial.to_be_bytes();
    format!("{prefix}:00:00:{high:02x}:{low:02x}")
}
