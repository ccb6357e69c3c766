//! Asks the policy table about the places of this host.

use vnet_common::{
    family::Family,
    network::{NETWORK_ISOLATED_PORTS, Network, Pool, SUBNET_IS_HOST, SUBNET_NO_STATION, Subnet},
    policy::{Connection, Mode, Modes, Place, Verdict},
    reason::DropReason,
};

use crate::{ip::Ip, tables};

/// The slot of a network; 0 is none. A plain word wherever it goes: an absent one has no undefined
/// part, which the verifier would refuse.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u16);

impl Slot {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }

    #[inline(always)]
    pub fn network(self) -> Option<&'static Network> {
        tables::network(self.0)
    }

    /// Interface index of its bridge; 0 if there is no such network.
    #[inline(always)]
    pub fn bridge_ifindex(self) -> u32 {
        self.network().map_or(0, |network| network.bridge_ifindex)
    }

    #[inline(always)]
    pub fn end(self) -> End {
        End { slot: self, ifindex: 0 }
    }

    #[inline(always)]
    pub fn mode<V: Ip>(self) -> Mode {
        self.network().map_or(Mode::Isolated, |network| modes(network).of(V::FAMILY))
    }

    #[inline(always)]
    pub fn is_open<V: Ip>(self) -> bool {
        matches!(self.mode::<V>(), Mode::Open)
    }

    /// The network's own addresses to masquerade to on the way to an end. Networks of this host
    /// see an address of their bridge instead, which their guests can answer without a route.
    #[inline(always)]
    pub fn pool<V: Ip>(self, destination: End) -> Pool {
        match (V::FAMILY, self.network()) {
            (Family::Ipv4, Some(network)) if !destination.slot.is_some() => network.pool(),
            _ => Pool::NONE,
        }
    }
}

#[inline(always)]
fn modes(network: &Network) -> Modes {
    Modes { ipv4: Mode::from_byte(network.mode), ipv6: Mode::from_byte(network.mode_ipv6) }
}

/// The network whose bridge this is.
#[inline(always)]
pub fn network_of_bridge(ifindex: u32) -> Slot {
    tables::slot_of_bridge(ifindex).map_or(Slot::NONE, Slot)
}

/// The network that an address belongs to.
#[derive(Clone, Copy)]
pub struct Owner {
    /// None if it is no network's.
    pub slot: Slot,
    /// `SUBNET_*`
    pub flags: u16,
}

impl Owner {
    /// Whether this is the host's own address on that network's bridge.
    #[inline(always)]
    pub fn is_host(self) -> bool {
        self.flags & SUBNET_IS_HOST != 0
    }
}

/// The network of whose subnets this address is.
#[inline(always)]
pub fn owner_of<V: Ip>(address: V::Address) -> Owner {
    let wide = V::widen(address);
    // In the trie that form is an IPv4 address.
    if wide.is_ipv4() != (V::FAMILY as u8 == Family::Ipv4 as u8) {
        return Owner { slot: Slot::NONE, flags: 0 };
    }
    match tables::subnet_of(wide) {
        Some(Subnet { network, flags }) => Owner { slot: Slot(*network), flags: *flags },
        None => Owner { slot: Slot::NONE, flags: 0 },
    }
}

/// Checks the source of a packet that came through an interface. A guest's address comes from its
/// own bridge only, and from a network's bridge nothing else comes. Open networks are not judged.
#[inline(always)]
pub fn check_source<V: Ip>(owner: Owner, ingress_ifindex: u32) -> Result<(), DropReason> {
    let ok = if owner.flags & (SUBNET_IS_HOST | SUBNET_NO_STATION) != 0 {
        false
    } else if owner.slot.is_some() && !owner.slot.is_open::<V>() {
        owner.slot.bridge_ifindex() == ingress_ifindex
    } else {
        let network = network_of_bridge(ingress_ifindex);
        !network.is_some() || network.is_open::<V>()
    };
    if ok { Ok(()) } else { Err(DropReason::SpoofedSource) }
}

/// As [`check_source`], of what the stack forwards. Its own rules may have given a packet the host's
/// address; where it came in through hooks of ours, these have refused who only pretended to have it.
#[inline(always)]
pub fn check_forwarded_source<V: Ip>(owner: Owner, ingress_ifindex: u32) -> Result<(), DropReason> {
    if owner.is_host() && End::of_interface(ingress_ifindex).has_hooks() {
        return Ok(());
    }
    check_source::<V>(owner, ingress_ifindex)
}

/// As [`check_forwarded_source`], where the packet is for a network that is not open: there, the
/// address of an open network's guest has to come from its own bridge, too.
#[inline(always)]
pub fn check_source_for<V: Ip>(
    destination: Slot,
    owner: Owner,
    ingress_ifindex: u32,
) -> Result<(), DropReason> {
    check_forwarded_source::<V>(owner, ingress_ifindex)?;
    if owner.is_host() {
        return Ok(());
    }
    let from_elsewhere = owner.slot.is_some() && owner.slot.bridge_ifindex() != ingress_ifindex;
    if from_elsewhere && !destination.is_open::<V>() {
        return Err(DropReason::SpoofedSource);
    }
    Ok(())
}

/// What is behind an interface through which a packet came or would leave: a [`Place`] in brief.
#[derive(Clone, Copy)]
pub struct End {
    /// The network whose bridge it is; none for outside.
    pub slot: Slot,
    pub ifindex: u32,
}

impl End {
    /// Of an interface that is no network's.
    #[inline(always)]
    pub const fn outside(ifindex: u32) -> Self {
        Self { slot: Slot::NONE, ifindex }
    }

    /// Of any interface.
    #[inline(always)]
    pub fn of_interface(ifindex: u32) -> Self {
        Self { slot: network_of_bridge(ifindex), ifindex }
    }

    /// Whether vnet has hooks there, so that nothing that the stack sends there leaves unjudged.
    #[inline(always)]
    pub fn has_hooks(self) -> bool {
        self.slot.is_some() || is_uplink(self.ifindex)
    }

    #[inline(always)]
    fn place(self) -> Option<Place> {
        if !self.slot.is_some() {
            return Some(Place::Outside { ifindex: self.ifindex });
        }
        let network = self.slot.network()?;
        Some(Place::Network {
            slot: self.slot.0,
            modes: modes(network),
            forward_ifindex: network.forward_ifindex,
            isolated_ports: network.flags & NETWORK_ISOLATED_PORTS != 0,
        })
    }

    #[inline(always)]
    const fn word(self) -> u64 {
        (self.slot.0 as u64) << 32 | self.ifindex as u64
    }

    #[inline(always)]
    const fn from_word(word: u64) -> Self {
        Self { slot: Slot((word >> 32) as u16), ifindex: word as u32 }
    }
}

/// Whether flows are masqueraded at this interface.
#[inline(always)]
pub fn is_uplink(ifindex: u32) -> bool {
    tables::uplink(ifindex).is_some()
}

/// The verdict on a packet from one end to another, as if it opened a connection: replies have
/// either a flow or, because the table is symmetric without masquerade, the same verdict.
#[inline(always)]
pub fn verdict<V: Ip>(source: End, destination: End) -> Verdict {
    match vnet_judge(source.word(), destination.word(), V::FAMILY as u32) {
        ACCEPT => Verdict::Accept,
        MASQUERADE => Verdict::Masquerade,
        LEAVE_TO_HOST => Verdict::LeaveToHost,
        _ => Verdict::Reject,
    }
}

// What `vnet_judge` says.
const REJECT: u32 = 0;
const ACCEPT: u32 = 1;
const MASQUERADE: u32 = 2;
const LEAVE_TO_HOST: u32 = 3;

/// Asks the table. A global function: the verifier checks the table once instead of at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_judge(source: u64, destination: u64, family: u32) -> u32 {
    let (Some(source), Some(destination)) =
        (End::from_word(source).place(), End::from_word(destination).place())
    else {
        return REJECT;
    };
    let family = if family == Family::Ipv4 as u32 { Family::Ipv4 } else { Family::Ipv6 };
    match vnet_common::policy::verdict(source, destination, family, Connection::New) {
        Verdict::Accept => ACCEPT,
        Verdict::Masquerade => MASQUERADE,
        Verdict::LeaveToHost => LEAVE_TO_HOST,
        Verdict::Reject => REJECT,
    }
}

/// Why a packet between two ends is rejected.
#[inline(always)]
pub fn rejection(source: End, destination: End) -> DropReason {
    if source.slot.is_some() && source.slot == destination.slot {
        DropReason::IsolatedPort
    } else {
        DropReason::PolicyRejected
    }
}
