//! The lab that most tests and the demonstration use.

use super::error::Result;
use super::guest::Guest;
use super::node::Node;
use super::topology::Lab;

/// One host with libvirt's default network `192.168.122.0/24` on `virbr0`, a guest on a tap, a
/// guest on a veth pair, and an outside host behind uplink `eth0`. Forwarding is off.
#[derive(Debug)]
pub struct StandardLab {
    /// The host; `virbr0` is 192.168.122.1, uplink `eth0` is 203.0.113.2.
    pub host: Node,
    /// 192.168.122.11 on a tap.
    pub tap_guest: Node,
    /// 192.168.122.12 on a veth pair.
    pub veth_guest: Node,
    /// 203.0.113.1, with no route to the guests' network.
    pub outside: Node,
    /// The lab itself.
    pub lab: Lab,
}

impl StandardLab {
    /// Builds it.
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let outside = lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        host.bridge("virbr0", &["192.168.122.1/24"])?;
        let plug = |guest: Guest, address: &str| {
            lab.guest(&host, "virbr0", &guest.address(address).gateway("192.168.122.1"))
        };
        let tap_guest = plug(Guest::tap("guest1"), "192.168.122.11/24")?;
        let veth_guest = plug(Guest::veth("guest2"), "192.168.122.12/24")?;
        Ok(Self { host, tap_guest, veth_guest, outside, lab })
    }
}
