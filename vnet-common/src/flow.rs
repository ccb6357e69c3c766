//! The flow table: keys as packets carry them, and the session that both directions share.
//!
//! A [`FlowKey`] is found by one hash look-up and names a slot of the session array. A flow has two
//! keys, one per direction; its [`Session`] holds everything that a packet of either direction
//! needs. Slots instead of map values make the state of both directions one thing, let the sweep
//! run over slices of the table, and let userspace read a million flows from mapped memory.

use core::mem::size_of;

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Ipv4Be, PortBe},
    shortcut::{InboundWay, OutboundWay},
};

/// IP protocol numbers.
pub mod protocol {
    /// ICMP
    pub const ICMP: u8 = 1;
    /// TCP
    pub const TCP: u8 = 6;
    /// UDP
    pub const UDP: u8 = 17;
    /// GRE
    pub const GRE: u8 = 47;
    /// ESP
    pub const ESP: u8 = 50;
    /// DCCP (RFC 4340)
    pub const DCCP: u8 = 33;
    /// `ICMPv6`
    pub const ICMPV6: u8 = 58;
    /// SCTP
    pub const SCTP: u8 = 132;
    /// UDP-Lite (RFC 3828)
    pub const UDP_LITE: u8 = 136;
}

/// How a protocol is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Address and port, or query identifier.
    Port,
    /// The address alone; ports tell flows apart but stay as they are. SCTP: its checksum covers the
    /// ports, and endpoints with several addresses have to show the same port at each.
    KeptPort,
    /// The address alone: one inside endpoint for each remote. GRE, ESP and whatever else there is.
    Address,
}

impl Translation {
    /// How an IP protocol is translated, of either family.
    #[inline]
    #[must_use]
    pub const fn of(ip_protocol: u8) -> Self {
        match ip_protocol {
            protocol::TCP
            | protocol::UDP
            | protocol::ICMP
            | protocol::ICMPV6
            | protocol::DCCP
            | protocol::UDP_LITE => Self::Port,
            protocol::SCTP => Self::KeptPort,
            _ => Self::Address,
        }
    }
}

/// Whether a protocol's header begins with its ports, source first. `false` for ICMP.
#[inline]
#[must_use]
pub const fn has_ports(ip_protocol: u8) -> bool {
    checksum_offset(ip_protocol).is_some() || ip_protocol == protocol::SCTP
}

/// Offset in a protocol's header of the checksum that covers the addresses as well; `None` for
/// protocols that have none and for ICMP.
#[inline]
#[must_use]
pub const fn checksum_offset(ip_protocol: u8) -> Option<usize> {
    match ip_protocol {
        // RFC 9293, section 3.1.
        protocol::TCP => Some(16),
        // RFC 768; RFC 3828, section 3.1; RFC 4340, section 5.1.
        protocol::UDP | protocol::UDP_LITE | protocol::DCCP => Some(6),
        _ => None,
    }
}

/// Whether a checksum of 0 says that there is none (RFC 768; RFC 3828 forbids it), so that a sum of 0 is
/// written as 0xffff.
#[inline]
#[must_use]
pub const fn zero_means_no_checksum(ip_protocol: u8) -> bool {
    matches!(ip_protocol, protocol::UDP | protocol::UDP_LITE)
}

/// Which way a packet goes through the translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From a guest to outside; seen at the bridge or at the uplink's egress.
    Outbound = 0,
    /// From outside to a guest; seen at the uplink's ingress.
    Inbound = 1,
}

/// A packet's flow, every address and port as the packet carries them before translation.
///
/// IPv4 flows have keys of their own with [`Ipv4Be`] for `A`, because the hash look-up of 16 bytes is
/// what every packet of theirs costs; IPv6 flows have [`Address`].
///
/// ICMP queries carry their identifier as the port of the inside (outbound: source, inbound:
/// destination); the other port is [`PortBe::NONE`]. Protocols without ports carry none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Zeroable)]
#[repr(C)]
pub struct FlowKey<A = Ipv4Be> {
    /// The packet's source.
    pub source: A,
    /// The packet's destination.
    pub destination: A,
    /// The packet's source port.
    pub source_port: PortBe,
    /// The packet's destination port.
    pub destination_port: PortBe,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// Zero; room for a routing domain.
    pub zone: u16,
}

/// The key of an IPv4 flow.
pub type FlowKey4 = FlowKey<Ipv4Be>;
/// The key of an IPv6 flow.
pub type FlowKey6 = FlowKey<Address>;

// SAFETY: `repr(C)` of plain data; the sizes asserted below leave no room for padding.
unsafe impl Pod for FlowKey4 {}
// SAFETY: as above.
unsafe impl Pod for FlowKey6 {}
const _: () = assert!(size_of::<FlowKey4>() == 2 * 4 + 8 && size_of::<FlowKey6>() == 2 * 16 + 8);

impl<A: Copy> FlowKey<A> {
    /// The key of a packet from an inside endpoint.
    #[inline]
    #[must_use]
    pub const fn outbound(
        protocol: u8,
        (inside, inside_port): (A, PortBe),
        (remote, remote_port): (A, PortBe),
    ) -> Self {
        Self {
            source: inside,
            destination: remote,
            source_port: inside_port,
            destination_port: remote_port,
            protocol,
            direction: Direction::Outbound as u8,
            zone: 0,
        }
    }

    /// The key of a packet from a remote endpoint.
    #[inline]
    #[must_use]
    pub const fn inbound(
        protocol: u8,
        (remote, remote_port): (A, PortBe),
        (external, external_port): (A, PortBe),
    ) -> Self {
        Self {
            source: remote,
            destination: external,
            source_port: remote_port,
            destination_port: external_port,
            protocol,
            direction: Direction::Inbound as u8,
            zone: 0,
        }
    }
}

/// What a [`FlowKey`] leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowSlot {
    /// Index into the session array.
    pub index: u32,
    /// The session's generation when the key was inserted; another one means that the slot has a
    /// new tenant.
    pub generation: u32,
}

/// What a session slot is used for. The order is the order of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nobody's.
    Free = 0,
    /// Being filled by the one who took it.
    Filling = 1,
    /// A flow that packets may use.
    Live = 2,
    /// Ended: keys are gone, packets that found them earlier may still read the slot.
    Draining = 3,
    /// Ended, and keeps its external port from other guests for the hold-down time.
    HoldDown = 4,
}

impl Phase {
    /// Takes the word of a session; an unknown one is [`Phase::Free`].
    #[inline]
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Filling,
            2 => Self::Live,
            3 => Self::Draining,
            4 => Self::HoldDown,
            _ => Self::Free,
        }
    }
}

/// [`Session::flags`]: the inside is the host itself (an own address on the bridge as source), so
/// replies go up its stack.
pub const FLAG_INSIDE_IS_HOST: u8 = 1;
/// [`Session::flags`]: the inside is behind a guest that routes, so replies take the host's routes.
pub const FLAG_INSIDE_IS_ROUTED: u8 = 2;
/// [`Session::flags`]: the flow has no mapping: its external endpoint is its own towards this remote
/// only. So are flows of protocols whose ports stay ([`Translation`]), of ports that are shared because
/// no other is left, and of port forwards.
pub const FLAG_UNMAPPED: u8 = 4;
/// [`Session::flags`]: a port forward let it in, and it lives as long as that is there.
pub const FLAG_FORWARDED: u8 = 8;
/// [`Session::flags`]: the remote is an external endpoint of this host: packets to it turn round
/// instead of leaving (hairpin, RFC 4787, REQ-9).
pub const FLAG_HAIRPIN: u8 = 16;
/// [`Session::flags`]: the remote has sent first, by a port forward or to a port that anybody may
/// send to.
pub const FLAG_FROM_OUTSIDE: u8 = 32;

/// Packets and bytes of one direction.
///
/// As the kernel counts for its devices: a segmentation-offload packet is one packet, bytes are
/// those of the socket buffer with its link-layer header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Socket buffers.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A flow: the translation of both directions, the way of both directions, and its account.
///
/// 192 bytes, three cache lines: the first holds what every packet reads, the last what every packet
/// writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Session {
    /// A [`Phase`]; changes by compare-and-swap together with the generation, as one word.
    pub phase: u32,
    /// Counts the tenants of this slot.
    pub generation: u32,
    /// The epoch in which the outbound direction was last judged and routed.
    pub epoch_outbound: u32,
    /// The epoch in which the inbound direction was last judged.
    pub epoch_inbound: u32,
    /// The bridge where the inside lives; 0 when the inside is the host.
    pub bridge_ifindex: u32,
    /// The interface towards the remote.
    pub uplink_ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`crate::tcp::State`].
    pub state: u8,
    /// `FLAG_*`
    pub flags: u8,
    /// 1 once the inside has sent: what its remote has opened lives no longer by what that sends alone.
    pub answered: u8,
    /// The slot of the inside's network in the network table.
    pub network: u16,
    /// Largest IP packet in bytes that the way to the remote takes.
    pub mtu_outbound: u16,
    /// The inside's port, or ICMP query identifier.
    pub inside_port: PortBe,
    /// The external port, or ICMP query identifier.
    pub external_port: PortBe,
    /// The remote's port.
    pub remote_port: PortBe,
    /// Largest IP packet in bytes that the bridge takes.
    pub mtu_inbound: u16,
    /// The next hop to the remote, of either family (RFC 5549).
    pub next_hop: Address,
    /// The guest's address.
    pub inside: Address,
    /// The address that the outside sees.
    pub external: Address,
    /// The remote's address.
    pub remote: Address,
    /// When the flow began, or ended if it has ended, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub since: u64,
    /// The short way of outbound packets.
    pub way_outbound: OutboundWay,
    /// Last outbound packet, as `since`.
    pub last_outbound: u64,
    /// Last inbound packet, likewise; 0 if none.
    pub last_inbound: u64,
    /// Traffic from the inside.
    pub outbound: Traffic,
    /// Traffic to the inside.
    pub inbound: Traffic,
    /// The short way of inbound packets.
    pub way_inbound: InboundWay,
}

impl Session {
    /// Whether this is an IPv4 flow, whose keys are [`FlowKey4`].
    #[inline]
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.inside.is_ipv4()
    }

    /// As [`Session::outbound_key`] for an IPv6 flow.
    #[inline]
    #[must_use]
    pub const fn outbound_key_ipv6(&self) -> FlowKey6 {
        let inside = (self.inside, self.inside_port);
        FlowKey::outbound(self.protocol, inside, (self.remote, self.remote_port))
    }

    /// As [`Session::inbound_key`] for an IPv6 flow.
    #[inline]
    #[must_use]
    pub const fn inbound_key_ipv6(&self) -> FlowKey6 {
        let external = (self.external, self.external_port);
        FlowKey::inbound(self.protocol, (self.remote, self.remote_port), external)
    }

    /// The key under which the inside's packets of an IPv4 flow find this session.
    #[inline]
    #[must_use]
    pub const fn outbound_key(&self) -> FlowKey4 {
        FlowKey::outbound(
            self.protocol,
            (self.inside.ipv4_part(), self.inside_port),
            (self.remote.ipv4_part(), self.remote_port),
        )
    }

    /// The key under which the remote's packets of an IPv4 flow find this session.
    #[inline]
    #[must_use]
    pub const fn inbound_key(&self) -> FlowKey4 {
        FlowKey::inbound(
            self.protocol,
            (self.remote.ipv4_part(), self.remote_port),
            (self.external.ipv4_part(), self.external_port),
        )
    }
}

/// The time of the last packet that keeps a flow alive: for TCP either direction's, for the others
/// the inside's alone (RFC 4787 REQ-6: outbound refresh).
#[inline]
#[must_use]
pub const fn last_refresh(ip_protocol: u8, last_outbound: u64, last_inbound: u64) -> u64 {
    if ip_protocol == protocol::TCP && last_inbound > last_outbound {
        last_inbound
    } else {
        last_outbound
    }
}

/// An inside endpoint on one external address: the key of its mapping.
///
/// Endpoint-independent (RFC 4787 REQ-1): the remote is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct MappingKey {
    /// The guest's address.
    pub inside: Address,
    /// The address that the outside sees.
    pub external: Address,
    /// The guest's port.
    pub inside_port: PortBe,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// [`Mapping::references`] of a mapping that is being deleted.
pub const MAPPING_DEAD: u64 = 1 << 63;

/// The external port of an inside endpoint, shared by all its flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Mapping {
    /// The key's address: with port and protocol it tells a map element that was recycled for another
    /// endpoint under a reader's hands. Before the references, so that it is written first.
    pub inside: Address,
    /// Flows that use the mapping, or at least [`MAPPING_DEAD`].
    pub references: u64,
    /// Those of them that the inside has opened or answered. Where anybody may send to a mapping, only
    /// these keep it open (RFC 4787, REQ-6).
    pub own: u64,
    /// When the last flow ended, or should have, nanoseconds of `CLOCK_MONOTONIC_COARSE`; 0 if none
    /// has.
    pub idle_since: u64,
    /// The key's port.
    pub inside_port: PortBe,
    /// The external port.
    pub external_port: PortBe,
    /// The key's protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// An external endpoint: who holds a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ExternalPort {
    /// The address that the outside sees.
    pub external: Address,
    /// The external port.
    pub port: PortBe,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

impl ExternalPort {
    /// The key of the [`crate::port_map::PortMap`] that has this port.
    #[inline]
    #[must_use]
    pub const fn port_map(self) -> Self {
        Self { port: PortBe::NONE, ..self }
    }
}

/// The inside endpoint that holds an external port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PortHolder {
    /// The guest's address.
    pub inside: Address,
    /// The uplink at which it was taken.
    pub uplink_ifindex: u32,
    /// The guest's port.
    pub inside_port: PortBe,
    /// The slot of the guest's network.
    pub network: u16,
}

/// [`GuestUsage::ports`] of a guest without flows and ports whose entry is being deleted: the highest
/// bit.
pub const GUEST_GONE: u32 = 1 << 31;

/// What a guest uses of the tables that it shares with others. Has an entry as long as it has flows or
/// ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GuestUsage {
    /// The key: it tells a map element that was recycled for another guest under a reader's hands.
    /// First, so that it is written first.
    pub inside: Address,
    /// Live flows; one word with `ports`, as which it changes.
    pub flows: u32,
    /// External ports that its mappings hold, also those held down; or at least [`GUEST_GONE`].
    pub ports: u32,
    /// Those of the flows that their remotes have opened.
    pub from_outside: u64,
    /// When it last opened flows, in whole seconds of `CLOCK_MONOTONIC_COARSE`, in the upper half;
    /// in the lower one how many in that second. 0 where that has no limit.
    pub opened: u64,
    /// As `opened`, of those that their remotes have opened.
    pub opened_from_outside: u64,
}

/// How many of a guest's flows, or of those in a second, their remotes may open: strangers leave a quarter
/// to the guest itself.
#[inline]
#[must_use]
pub const fn share_of_outside(limit: u32) -> u32 {
    limit - limit / 4
}

/// The fragments of one datagram (RFC 791, section 2.3; RFC 8200, section 4.5), as the packets carry
/// them; of IPv4 ([`Ipv4Be`]) or IPv6 ([`Address`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Zeroable)]
#[repr(C)]
pub struct FragmentKey<A = Ipv4Be> {
    /// The packet's source.
    pub source: A,
    /// The packet's destination.
    pub destination: A,
    /// The identification field in network byte order; IPv4's in the first two bytes.
    pub identification: [u16; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}

// SAFETY: `repr(C)` of plain data; the sizes asserted below leave no room for padding.
unsafe impl Pod for FragmentKey<Ipv4Be> {}
// SAFETY: as above.
unsafe impl Pod for FragmentKey<Address> {}
const _: () = assert!(size_of::<FragmentKey<Ipv4Be>>() == 2 * 4 + 8);
const _: () = assert!(size_of::<FragmentKey<Address>>() == 2 * 16 + 8);

/// What the first fragment left for those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentSlot {
    /// The datagram's flow.
    pub flow: FlowSlot,
    /// When the first fragment passed, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub since: u64,
}

impl FragmentSlot {
    /// Of a datagram that is of no flow, but the host's own.
    #[inline]
    #[must_use]
    pub const fn of_the_host(since: u64) -> Self {
        Self { flow: FlowSlot { index: u32::MAX, generation: 0 }, since }
    }
}

/// One of the fragments that came before the first of their datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct HeldKey {
    /// Their datagram; of IPv4 with mapped addresses.
    pub datagram: FragmentKey<Address>,
    /// Which of them, less than [`crate::limits::HELD_PER_DATAGRAM`].
    pub index: u32,
}

/// A copy of a fragment that came before the first of its datagram.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
pub struct HeldFragment {
    /// When it came, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub since: u64,
    /// Where it came in.
    pub ifindex: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// From the link-layer header on.
    pub frame: [u8; crate::limits::HELD_FRAME_BYTES],
}

// SAFETY: `repr(C)` of plain data; the size asserted below leaves no room for padding.
unsafe impl Pod for HeldFragment {}
const _: () = assert!(size_of::<HeldFragment>() == 16 + crate::limits::HELD_FRAME_BYTES);

/// Where the next slot comes from, and where the sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SessionCursor {
    /// Slots from here on have never been used.
    pub fresh: u64,
    /// Flows that expiry has ended since load.
    pub ended: u64,
    /// The next slot whose idle time is looked at, by the sweep or by a new flow.
    pub sweep: u32,
    /// The next slot that the sweep judges again if its epoch is over.
    pub review: u32,
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of};

    use super::*;

    #[test]
    fn sizes_and_alignments_are_what_the_programs_were_compiled_for() {
        assert_eq!((size_of::<FlowKey>(), align_of::<FlowKey>()), (16, 4));
        assert_eq!((size_of::<FlowSlot>(), align_of::<FlowSlot>()), (8, 4));
        assert_eq!((size_of::<Session>(), align_of::<Session>()), (192, 8));
        assert_eq!((size_of::<MappingKey>(), align_of::<MappingKey>()), (36, 4));
        assert_eq!((size_of::<Mapping>(), align_of::<Mapping>()), (48, 8));
        assert_eq!((size_of::<ExternalPort>(), align_of::<ExternalPort>()), (20, 4));
        assert_eq!((size_of::<PortHolder>(), align_of::<PortHolder>()), (24, 4));
        assert_eq!((size_of::<GuestUsage>(), align_of::<GuestUsage>()), (48, 8));
        assert_eq!((size_of::<FragmentKey>(), align_of::<FragmentKey>()), (16, 4));
        assert_eq!((size_of::<FlowKey6>(), align_of::<FlowKey6>()), (40, 4));
        assert_eq!((size_of::<FragmentSlot>(), align_of::<FragmentSlot>()), (16, 8));
        assert_eq!((size_of::<HeldKey>(), align_of::<HeldKey>()), (44, 4));
        assert_eq!((size_of::<HeldFragment>(), align_of::<HeldFragment>()), (2064, 8));
        assert_eq!((size_of::<SessionCursor>(), align_of::<SessionCursor>()), (24, 8));
    }

    #[test]
    fn ports_that_change_are_covered_by_a_checksum_that_changes_with_them() {
        for number in 0..=u8::MAX {
            let is_icmp = matches!(number, protocol::ICMP | protocol::ICMPV6);
            let changes = Translation::of(number) == Translation::Port;
            assert_eq!(changes, is_icmp || checksum_offset(number).is_some(), "{number}");
            let has_ports = matches!(number, 6 | 17 | 33 | 132 | 136);
            assert_eq!(super::has_ports(number), has_ports, "{number}");
        }
    }

    #[test]
    fn the_first_cache_line_holds_what_every_packet_reads_and_the_last_what_it_writes() {
        assert_eq!((offset_of!(Session, phase), offset_of!(Session, generation)), (0, 4));
        assert!(offset_of!(Session, next_hop) + size_of::<Address>() <= 64);
        assert_eq!(offset_of!(Session, last_outbound), 128);
        assert_eq!(size_of::<Session>() % 64, 0);
    }

    #[test]
    fn keys_of_a_session_mirror_each_other_outside() {
        let address = |text: &str| Address::from_addr(text.parse().unwrap());
        let mut session = Session::zeroed();
        session.inside = address("192.168.122.10");
        session.external = address("198.51.100.1");
        session.remote = address("203.0.113.9");
        session.inside_port = PortBe::from_host(40000);
        session.external_port = PortBe::from_host(50000);
        session.remote_port = PortBe::from_host(80);
        session.protocol = protocol::TCP;
        let out = session.outbound_key();
        assert_eq!(out.source, session.inside.ipv4_part());
        assert_eq!(out.source_port.to_host(), 40000);
        let back = session.inbound_key();
        assert_eq!(back.source, session.remote.ipv4_part());
        assert_eq!(back.destination, session.external.ipv4_part());
        assert_eq!((back.source_port.to_host(), back.destination_port.to_host()), (80, 50000));
        assert_eq!(session.outbound_key_ipv6().source, session.inside);
        assert_eq!(session.inbound_key_ipv6().destination, session.external);
    }

    #[test]
    fn strangers_leave_a_quarter_and_get_one_flow_of_one() {
        assert_eq!([0, 1, 3, 4, 8, 16384].map(share_of_outside), [0, 1, 3, 3, 6, 12288]);
    }

    #[test]
    fn inbound_traffic_refreshes_tcp_only() {
        assert_eq!(last_refresh(protocol::UDP, 5, 9), 5);
        assert_eq!(last_refresh(protocol::ICMP, 5, 9), 5);
        assert_eq!(last_refresh(protocol::TCP, 5, 9), 9);
        assert_eq!(last_refresh(protocol::TCP, 9, 5), 9);
    }
}
