//! Who may talk to whom: the table of the design, as text.

use std::net::IpAddr;

use vnet_common::{
    family::Family,
    network::{NETWORK_ISOLATED_PORTS, Network, SUBNET_BEHIND_GUEST, SUBNET_IS_HOST},
    policy::Mode,
    reason::DropReason,
};

use super::{Stop, World};

/// What becomes of a packet that opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Masquerade,
    LeaveToHost,
    Reject,
}

/// Rows and columns: nat, nat dev=X, route, route dev=X, isolated, open, outside X, outside Y. `L` is
/// left to the host. What libvirt half opens is rejected.
const TABLE: [&str; 8] = [
    "R R M R R M M M",
    "R R R R R R M R",
    "R R A R R L A A",
    "R R R R R R A R",
    "R R R R R R R R",
    "R R L R R L L L",
    "R R A A R L A A",
    "R R A R R L A A",
];

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The network's slot; 0 for none.
    pub slot: u16,
    /// The host's own address.
    pub is_host: bool,
    /// Behind a guest that routes.
    pub behind_guest: bool,
}

/// An end of a connection: the network behind an interface, or outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub slot: u16,
    pub ifindex: u32,
}

impl World {
    pub(super) fn network(&self, slot: u16) -> Option<&Network> {
        self.networks.get(&slot)
    }

    pub(super) fn mode(&self, slot: u16, family: Family) -> Mode {
        self.network(slot).map_or(Mode::Isolated, |network| mode_of(network, family))
    }

    pub(super) fn bridge_of(&self, slot: u16) -> u32 {
        self.network(slot).map_or(0, |network| network.bridge_ifindex)
    }

    /// The network whose bridge this is; 0 for none.
    pub(super) fn network_of_bridge(&self, ifindex: u32) -> u16 {
        self.bridges.get(&ifindex).copied().unwrap_or(0)
    }

    /// The network of whose prefixes the longest that holds the address is.
    pub(super) fn owner_of(&self, address: IpAddr) -> Owner {
        let holding = self.subnets.iter().filter(|(prefix, _)| prefix.contains(address));
        match holding.max_by_key(|(prefix, _)| prefix.length) {
            Some((_, subnet)) => Owner {
                slot: subnet.network,
                is_host: subnet.flags & SUBNET_IS_HOST != 0,
                behind_guest: subnet.flags & SUBNET_BEHIND_GUEST != 0,
            },
            None => Owner { slot: 0, is_host: false, behind_guest: false },
        }
    }

    pub(super) fn end_of_interface(&self, ifindex: u32) -> End {
        End { slot: self.network_of_bridge(ifindex), ifindex }
    }

    pub(super) fn end_of_network(&self, slot: u16) -> End {
        End { slot, ifindex: self.bridge_of(slot) }
    }

    pub(super) fn is_uplink(&self, ifindex: u32) -> bool {
        self.uplinks.contains_key(&ifindex)
    }

    /// Whether nothing leaves that interface without a judgement.
    pub(super) fn has_hooks(&self, end: End) -> bool {
        end.slot != 0 || self.is_uplink(end.ifindex)
    }

    /// The verdict on a packet that opens a connection.
    pub(super) fn verdict(&self, from: End, to: End, family: Family) -> Verdict {
        if from.slot != 0 && from.slot == to.slot {
            return self.within(from.slot, family);
        }
        let (Some(row), Some(column)) =
            (self.place(from, to, family), self.place(to, from, family))
        else {
            return Verdict::Reject;
        };
        match TABLE[row].split(' ').nth(column) {
            Some("A") => Verdict::Accept,
            Some("M") => Verdict::Masquerade,
            Some("L") => Verdict::LeaveToHost,
            _ => Verdict::Reject,
        }
    }

    /// Between two subnets of one network.
    fn within(&self, slot: u16, family: Family) -> Verdict {
        match self.network(slot) {
            Some(network) if network.flags & NETWORK_ISOLATED_PORTS != 0 => Verdict::Reject,
            Some(network) if mode_of(network, family) == Mode::Open => Verdict::LeaveToHost,
            Some(_) => Verdict::Accept,
            None => Verdict::Reject,
        }
    }

    /// The row of an end; X is the uplink that the other end, a network, is bound to.
    fn place(&self, end: End, other: End, family: Family) -> Option<usize> {
        if end.slot == 0 {
            let bound = self.network(other.slot).map_or(0, |network| network.forward_ifindex);
            return Some(if bound != 0 && bound != end.ifindex { 7 } else { 6 });
        }
        let network = self.network(end.slot)?;
        let bound = usize::from(network.forward_ifindex != 0);
        Some(match mode_of(network, family) {
            Mode::Nat => bound,
            Mode::Route => 2 + bound,
            Mode::Isolated | Mode::Bridged => 4,
            Mode::Open => 5,
        })
    }

    /// Guests' addresses come from their own bridge alone, and from that nothing else comes. What open
    /// networks send is not judged.
    pub(super) fn check_source(
        &self,
        owner: Owner,
        ingress: u32,
        family: Family,
    ) -> Result<(), Stop> {
        let is_open = |slot| self.mode(slot, family) == Mode::Open;
        let from = self.network_of_bridge(ingress);
        let ok = if owner.is_host {
            false
        } else if owner.slot != 0 && !is_open(owner.slot) {
            self.bridge_of(owner.slot) == ingress
        } else {
            from == 0 || is_open(from)
        };
        if ok { Ok(()) } else { Err(DropReason::SpoofedSource.into()) }
    }

    /// The same of what the stack forwards, whose rules may have given it the host's address where it came
    /// in through hooks of ours.
    pub(super) fn check_forwarded_source(
        &self,
        owner: Owner,
        ingress: u32,
        family: Family,
    ) -> Result<(), Stop> {
        if owner.is_host && self.has_hooks(self.end_of_interface(ingress)) {
            return Ok(());
        }
        self.check_source(owner, ingress, family)
    }

    /// Why a packet between two ends is rejected.
    pub(super) fn rejection(from: End, to: End) -> DropReason {
        if from.slot != 0 && from.slot == to.slot {
            DropReason::IsolatedPort
        } else {
            DropReason::PolicyRejected
        }
    }
}

pub(super) fn mode_of(network: &Network, family: Family) -> Mode {
    Mode::from_byte(match family {
        Family::Ipv4 => network.mode,
        Family::Ipv6 => network.mode_ipv6,
    })
}
