//! The packets of each kind, and the flows that they belong to.

use anyhow::{Context as _, Result, ensure};
use bytemuck::Pod as Bytes;
use vnet_common::{
    family::Family,
    flow::{FlowKey4, FlowKey6, FlowSlot, Session, protocol},
    names::{map, program},
    shortcut::{
        InboundWay, MOVES_MASK, OutboundWay, PORT_IS_UPLINK, PORT_SHORT, Station, WAY_REST,
        WAY_TAKES_XDP, XdpMode, way_time,
    },
    tcp::flags::{ACK, SYN},
    timeout::Timeouts,
};

use super::{
    CALLS, RUNS, SINGLE_CALLS,
    yardstick::{Hook, Yardstick},
};
use crate::programs::{
    Arrival, NETWORK, OTHER_NETWORK, Origin, Packet, Rig,
    guard::GUEST_MAC,
    load,
    modes::{Ends, ROUTED, network_of, port_of},
    shortcut::{HOST_MAC, ROUTER_MAC, with_macs},
    tcp, udp,
};

/// The slots of flows that translate what others have translated, above those of new flows.
const MIRRORED: u32 = super::ROOM / 2;

/// The packets of a kind, one after the other.
pub(super) enum Next {
    /// All alike. What a run makes of one is again a packet of the kind.
    Same(Vec<u8>),
    /// Each another one, for one run.
    Other(Box<dyn FnMut() -> Vec<u8> + Send>),
}

/// A program and what it gets.
pub(super) struct Kind {
    /// What happens.
    what: String,
    pub program: &'static str,
    pub interface: &'static str,
    /// Whether an XDP program is told the interface, which needs it attached there.
    pub is_told: bool,
    pub next: Next,
    pub yardstick: Yardstick,
    /// The flow's session and the one that translates back, if their packets take short ways.
    ways: Vec<u32>,
    /// Where packets of those go inside.
    guest: [u8; 6],
    /// Whether the program redirects such a packet; else it leaves it to others.
    redirects: bool,
}

impl Kind {
    /// Packets that one run makes others of the same kind of.
    fn new(
        what: &str,
        program: &'static str,
        interface: &'static str,
        packet: Vec<u8>,
        yardstick: Yardstick,
    ) -> Self {
        Self {
            what: what.to_owned(),
            program,
            interface,
            is_told: false,
            next: Next::Same(packet),
            yardstick,
            ways: Vec::new(),
            guest: GUEST_MAC,
            redirects: true,
        }
    }

    /// What happens, and to which packets.
    pub fn name(&self) -> String {
        format!("{}, {}", self.what, self.yardstick.packets())
    }

    /// Calls of a turn, and runs in each.
    pub fn runs(&self) -> (usize, u32) {
        if self.is_single() { (SINGLE_CALLS, 1) } else { (CALLS, RUNS) }
    }

    /// Whether a packet is good for one run only.
    pub const fn is_single(&self) -> bool {
        matches!(self.next, Next::Other(_))
    }

    pub fn check(&self, action: u32) -> Result<()> {
        let hook = self.yardstick.hook;
        let expected = if self.redirects { hook.redirect() } else { hook.next() };
        ensure!(
            action == expected,
            "{}: the program returned {action} instead of {expected}",
            self.name()
        );
        Ok(())
    }

    /// Makes the ways of the flow those of just now, or lets there be none.
    pub fn prepare(&self, rig: &mut Rig) -> Result<()> {
        let is_short = !self.ways.is_empty() || self.yardstick.hook == Hook::Xdp;
        rig.set_lease(if is_short { u64::MAX } else { 0 })?;
        let found = way_time(rig.clock()?) - 2 * WAY_REST;
        let port = rig.ifindex(PORT)?;
        let moves = rig.moves()? as u16 & MOVES_MASK | WAY_TAKES_XDP;
        for index in &self.ways {
            rig.set_session(*index, |session| {
                // What comes out goes in again, so that each run does all the work.
                session.way_outbound =
                    OutboundWay { found, destination: HOST_MAC, source: GUEST_MAC };
                session.way_inbound = InboundWay { found, port, destination: self.guest, moves };
            })?;
        }
        Ok(())
    }
}

/// Every kind, with the flows entered.
pub(super) fn all(rig: &mut Rig) -> Result<Vec<Kind>> {
    rig.set_icmp_tokens(u64::from(u32::MAX))?;
    rig.set_network(NETWORK, |network| network.timeouts = ENDLESS)?;
    rig.attach_xdp(program::BRIDGED_XDP, NIC)?;
    // Only so that the kernel's dispatcher has it; see the yardsticks.
    rig.attach_xdp(program::UPLINK_XDP, "far0")?;
    rig.shorten(NETWORK, "virbr0", PORT)?;
    rig.set_xdp_mode(XdpMode::On)?;
    rig.keep_ways_young(false);
    let flags = PORT_SHORT | PORT_IS_UPLINK;
    rig.set_bridge_port("virbr0", NIC, |port| port.flags = flags)?;
    let (port, seen) = (rig.ifindex(NIC)?, rig.clock()?);
    rig.set_station("virbr0", ROUTER_MAC, Station { port, seen_at: port, seen })?;
    rig.set_lease(0)?;
    let mut kinds = Vec::new();
    for ends in Ends::BOTH {
        for transport in [protocol::UDP, protocol::TCP] {
            kinds.extend(established(rig, ends, transport)?);
            kinds.push(new_flow(ends, transport));
            kinds.push(for_the_host(ends, transport, Hook::Tc));
            kinds.push(for_the_host(ends, transport, Hook::Xdp));
            kinds.push(bridged(ends, transport));
        }
        kinds.extend(routed(ends));
        kinds.push(rejected(ends));
    }
    Ok(kinds)
}

/// An hour: new flows end none of those that are measured.
const ENDLESS: Timeouts = Timeouts {
    tcp_established: 3600,
    tcp_transitory: 3600,
    udp: 3600,
    icmp_query: 3600,
    other: 3600,
    port_hold_down: 3600,
};
/// A port of the first network's bridge.
const PORT: &str = "port1";
/// A port of it towards outside.
const NIC: &str = "eth1";

fn packet(transport: u8, from: &str, to: &str, flags: u8) -> Packet {
    let packet = if transport == protocol::TCP { tcp(from, to, flags) } else { udp(from, to) };
    packet.ttl(u8::MAX)
}

/// A flow in both directions, by long and by short ways. Another one translates its packets back, so that each
/// run does all the work.
fn established(rig: &mut Rig, ends: Ends, transport: u8) -> Result<Vec<Kind>> {
    let (guest, external) = (port_of(ends.guest, 20000), port_of(ends.external, 20000));
    let remote = port_of(ends.remote, 80);
    let out = |flags| packet(transport, &guest, &remote, flags);
    let back = |flags| packet(transport, &remote, &external, flags);
    for (is_out, flags) in [(true, SYN), (false, SYN | ACK), (true, ACK)] {
        let (program, interface) = hook(is_out);
        let frame = if is_out { out(flags) } else { back(flags) }.frame();
        let origin = Origin::Interface(interface);
        let arrival = Arrival { program, frame: &frame, interface, origin, mark: 0, gso_size: 0 };
        let (verdict, ..) = rig.run_uncounted(arrival)?;
        ensure!(verdict == Hook::Tc.redirect(), "the flow is not opened");
    }
    let ways = mirror(rig, ends, transport)?;
    let yardstick = |hook| Yardstick::new(ends.family, transport, hook);
    let kind = |is_out, what| {
        let (program, interface) = hook(is_out);
        let packet = if is_out { out(ACK) } else { back(ACK) };
        Kind::new(what, program, interface, packet.frame(), yardstick(Hook::Tc))
    };
    let short = |is_out, what, program, interface, hook| {
        // The uplink takes only what is sent to it, what comes out included.
        let (packet, guest) = if is_out { (out(ACK), GUEST_MAC) } else { (back(ACK), HOST_MAC) };
        let frame = with_macs(packet.frame(), HOST_MAC, guest);
        let kind = Kind::new(what, program, interface, frame, yardstick(hook));
        Kind { ways: ways.to_vec(), guest, ..kind }
    };
    Ok(vec![
        kind(true, "established out"),
        kind(false, "established in"),
        short(true, "established out, short way", program::PORT_SHORTCUT, PORT, Hook::Tc),
        // The stack looks at the address before the program does.
        Kind { ways: ways.to_vec(), ..kind(false, "established in, short way") },
        short(false, "established in", program::UPLINK_XDP, "eth0", Hook::Xdp),
    ])
}

/// Where packets of the first network's flows go in.
const fn hook(is_out: bool) -> (&'static str, &'static str) {
    if is_out { (program::BRIDGE_INGRESS, "virbr0") } else { (program::UPLINK_INGRESS, "eth0") }
}

/// Enters for each live flow of a protocol one whose inside and external endpoint are the other way round.
/// Slots of both.
fn mirror(rig: &mut Rig, ends: Ends, transport: u8) -> Result<[u32; 2]> {
    let tables = rig.tables()?;
    let (original, session) = tables
        .live()
        .find(|(_, session)| {
            session.protocol == transport
                && session.is_ipv4() == matches!(ends.family, Family::Ipv4)
        })
        .context("no flow")?;
    let mirrored = Session {
        inside: session.external,
        inside_port: session.external_port,
        external: session.inside,
        external_port: session.inside_port,
        ..*session
    };
    let index = MIRRORED + u32::from(transport) + if session.is_ipv4() { 0 } else { 256 };
    let slot = FlowSlot { index, generation: mirrored.generation };
    let mut slots = load::array_mut::<Session>(rig.ebpf_mut(), map::SESSIONS)?;
    slots.set(index, load::Plain(mirrored), 0)?;
    if session.is_ipv4() {
        let keys = [mirrored.outbound_key(), mirrored.inbound_key()];
        insert::<FlowKey4>(rig, map::FLOWS, keys, slot)?;
    } else {
        let keys = [mirrored.outbound_key_ipv6(), mirrored.inbound_key_ipv6()];
        insert::<FlowKey6>(rig, map::FLOWS_IPV6, keys, slot)?;
    }
    Ok([original, index])
}

fn insert<K: Bytes>(rig: &mut Rig, name: &str, keys: [K; 2], slot: FlowSlot) -> Result<()> {
    let mut flows = load::hash_mut::<K, FlowSlot>(rig.ebpf_mut(), name)?;
    for key in keys {
        flows.insert(load::Plain(key), load::Plain(slot), 0)?;
    }
    Ok(())
}

/// The first packet of a flow that there is not yet, from another port each.
fn new_flow(ends: Ends, transport: u8) -> Kind {
    const FIRST: u32 = 1024;
    const PORTS: u32 = 30_000;
    let mut count = 0;
    let next = move || {
        let (port, remote) = (FIRST + count % PORTS, 1000 + count / PORTS);
        count += 1;
        let (from, to) =
            (port_of(ends.second, port as u16), port_of(ends.other_remote, remote as u16));
        packet(transport, &from, &to, SYN).frame()
    };
    let yardstick = Yardstick::opening(ends.family, transport);
    let kind = Kind::new("new flow", program::BRIDGE_INGRESS, "virbr0", Vec::new(), yardstick);
    Kind { next: Next::Other(Box::new(next)), ..kind }
}

/// A guest's packet that goes on as it is, and one to it.
fn routed(ends: Ends) -> [Kind; 2] {
    let network = network_of(ROUTED);
    let guest = port_of(&network.address(ends.family, 10), 20000);
    let remote = port_of(ends.remote, 80);
    let kind = |what: &str, (program, interface), packet: Packet| {
        let yardstick = Yardstick::new(ends.family, protocol::UDP, Hook::Tc);
        Kind::new(what, program, interface, packet.ttl(u8::MAX).frame(), yardstick)
    };
    [
        kind("routed out", (program::BRIDGE_INGRESS, network.bridge), udp(&guest, &remote)),
        kind("routed in", (program::UPLINK_INGRESS, "eth0"), udp(&remote, &guest)),
    ]
}

/// A guest's packet that the policy refuses, answered by ICMP.
fn rejected(ends: Ends) -> Kind {
    let other = network_of(OTHER_NETWORK).address(ends.family, 10);
    let frame = udp(&port_of(ends.guest, 20000), &port_of(&other, 80)).frame();
    let yardstick = Yardstick::new(ends.family, protocol::UDP, Hook::Tc);
    let bridge = network_of(NETWORK).bridge;
    let kind = Kind::new("rejected", program::BRIDGE_INGRESS, bridge, Vec::new(), yardstick);
    Kind { next: Next::Other(Box::new(move || frame.clone())), ..kind }
}

/// A packet from outside for the host itself: a miss.
fn for_the_host(ends: Ends, transport: u8, hook: Hook) -> Kind {
    let frame =
        packet(transport, &port_of(ends.remote, 80), &port_of(ends.external, 22), ACK).frame();
    let yardstick = Yardstick::new(ends.family, transport, hook);
    let program = match hook {
        Hook::Tc => program::UPLINK_INGRESS,
        Hook::Xdp => program::UPLINK_XDP,
    };
    let kind = Kind::new("miss, for the host", program, "eth0", frame, yardstick);
    Kind { redirects: false, ..kind }
}

/// A frame from outside to a station of the same bridge.
fn bridged(ends: Ends, transport: u8) -> Kind {
    let packet = packet(transport, &port_of(ends.remote, 80), &port_of(ends.guest, 20000), ACK);
    let frame = with_macs(packet.frame(), GUEST_MAC, ROUTER_MAC);
    let yardstick = Yardstick::new(ends.family, transport, Hook::Xdp);
    let kind = Kind::new("bridged", program::BRIDGED_XDP, NIC, frame, yardstick);
    Kind { is_told: true, ..kind }
}
