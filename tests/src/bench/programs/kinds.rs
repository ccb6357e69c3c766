//! The packets of each kind, and the flows that they belong to.

use anyhow::{Context as _, Result, ensure};
use bytemuck::Pod as Bytes;
use vnet_common::{
    family::Family,
    flow::{FlowKey4, FlowKey6, FlowSlot, Session, protocol},
    names::{map, program},
    tcp::flags::{ACK, SYN},
};

use super::yardstick::Yardstick;
use crate::programs::{
    Arrival, NETWORK, OTHER_NETWORK, Origin, Packet, Rig, load,
    modes::{Ends, ROUTED, network_of, port_of},
    tcp, udp,
};

/// `TC_ACT_UNSPEC`
const NEXT: u32 = u32::MAX;
/// `TC_ACT_REDIRECT`
const REDIRECT: u32 = 7;
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
    pub name: String,
    pub program: &'static str,
    pub interface: &'static str,
    pub next: Next,
    pub yardstick: Yardstick,
    /// What the program returns for such a packet.
    action: u32,
}

impl Kind {
    /// Whether a packet serves for one run only.
    pub fn is_single(&self) -> bool {
        matches!(self.next, Next::Other(_))
    }

    pub fn check(&self, action: u32) -> Result<()> {
        let Self { name, action: expected, .. } = self;
        ensure!(action == *expected, "{name}: the program returned {action} instead of {expected}");
        Ok(())
    }
}

/// Every kind, with the flows entered.
pub(super) fn all(rig: &mut Rig) -> Result<Vec<Kind>> {
    rig.set_icmp_tokens(u64::from(u32::MAX))?;
    let mut kinds = Vec::new();
    for ends in Ends::BOTH {
        for transport in [protocol::UDP, protocol::TCP] {
            kinds.extend(established(rig, ends, transport)?);
        }
        kinds.push(new_flow(ends));
        kinds.extend(routed(ends));
        kinds.push(rejected(ends));
        kinds.push(for_the_host(ends));
    }
    Ok(kinds)
}

fn version(ends: Ends) -> &'static str {
    match ends.family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

fn packet(transport: u8, from: &str, to: &str, flags: u8) -> Packet {
    let packet = if transport == protocol::TCP { tcp(from, to, flags) } else { udp(from, to) };
    packet.ttl(u8::MAX)
}

/// A flow in both directions. Another one translates its packets back, so that each run does all the work.
fn established(rig: &mut Rig, ends: Ends, transport: u8) -> Result<[Kind; 2]> {
    let (guest, external) = (port_of(ends.guest, 20000), port_of(ends.external, 20000));
    let remote = port_of(ends.remote, 80);
    let out = |flags| packet(transport, &guest, &remote, flags);
    let back = |flags| packet(transport, &remote, &external, flags);
    for (is_out, flags) in [(true, SYN), (false, SYN | ACK), (true, ACK)] {
        let (program, interface) = hook(is_out);
        let frame = if is_out { out(flags) } else { back(flags) }.frame();
        let origin = Origin::Interface(interface);
        let arrival = Arrival { program, frame: &frame, interface, origin, mark: 0, gso_size: 0 };
        ensure!(rig.run_uncounted(arrival)?.0 == REDIRECT, "the flow is not opened");
    }
    mirror(rig, ends, transport)?;
    let yardstick = Yardstick::of(ends.family, transport);
    let protocol = if transport == protocol::TCP { "TCP" } else { "UDP" };
    let kind = |is_out, word: &str, packet: Packet| {
        let (program, interface) = hook(is_out);
        let name = format!("established {word}, {} {protocol}", version(ends));
        let next = Next::Same(packet.frame());
        Kind { name, program, interface, next, yardstick, action: REDIRECT }
    };
    Ok([kind(true, "out", out(ACK)), kind(false, "in", back(ACK))])
}

/// Where packets of the first network's flows go in.
const fn hook(is_out: bool) -> (&'static str, &'static str) {
    if is_out { (program::BRIDGE_INGRESS, "virbr0") } else { (program::UPLINK_INGRESS, "eth0") }
}

/// Enters for each live flow of a protocol one whose inside and external endpoint are the other way round.
fn mirror(rig: &mut Rig, ends: Ends, transport: u8) -> Result<()> {
    let tables = rig.tables()?;
    let session = tables
        .live()
        .map(|(_, session)| session)
        .find(|session| {
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
        insert::<FlowKey4>(rig, map::FLOWS, keys, slot)
    } else {
        let keys = [mirrored.outbound_key_ipv6(), mirrored.inbound_key_ipv6()];
        insert::<FlowKey6>(rig, map::FLOWS_IPV6, keys, slot)
    }
}

fn insert<K: Bytes>(rig: &mut Rig, name: &str, keys: [K; 2], slot: FlowSlot) -> Result<()> {
    let mut flows = load::hash_mut::<K, FlowSlot>(rig.ebpf_mut(), name)?;
    for key in keys {
        flows.insert(load::Plain(key), load::Plain(slot), 0)?;
    }
    Ok(())
}

/// A datagram of a flow that there is not yet, from another port each.
fn new_flow(ends: Ends) -> Kind {
    const FIRST: u32 = 1024;
    const PORTS: u32 = 30_000;
    let mut count = 0;
    let next = move || {
        let (port, remote) = (FIRST + count % PORTS, 1000 + count / PORTS);
        count += 1;
        let (from, to) =
            (port_of(ends.second, port as u16), port_of(ends.other_remote, remote as u16));
        udp(&from, &to).frame()
    };
    Kind {
        name: format!("new flow, {} UDP", version(ends)),
        program: program::BRIDGE_INGRESS,
        interface: "virbr0",
        next: Next::Other(Box::new(next)),
        yardstick: Yardstick::of(ends.family, protocol::UDP),
        action: REDIRECT,
    }
}

/// A guest's packet that goes on as it is, and one to it.
fn routed(ends: Ends) -> [Kind; 2] {
    let network = network_of(ROUTED);
    let guest = port_of(&network.address(ends.family, 10), 20000);
    let remote = port_of(ends.remote, 80);
    let kind = |word: &str, (program, interface), packet: Packet| Kind {
        name: format!("routed {word}, {} UDP", version(ends)),
        program,
        interface,
        next: Next::Same(packet.ttl(u8::MAX).frame()),
        yardstick: Yardstick::of(ends.family, protocol::UDP),
        action: REDIRECT,
    };
    [
        kind("out", (program::BRIDGE_INGRESS, network.bridge), udp(&guest, &remote)),
        kind("in", (program::UPLINK_INGRESS, "eth0"), udp(&remote, &guest)),
    ]
}

/// A guest's packet that the policy refuses, answered by ICMP.
fn rejected(ends: Ends) -> Kind {
    let other = network_of(OTHER_NETWORK).address(ends.family, 10);
    let frame = udp(&port_of(ends.guest, 20000), &port_of(&other, 80)).frame();
    Kind {
        name: format!("rejected, {} UDP", version(ends)),
        program: program::BRIDGE_INGRESS,
        interface: network_of(NETWORK).bridge,
        next: Next::Other(Box::new(move || frame.clone())),
        yardstick: Yardstick::of(ends.family, protocol::UDP),
        action: REDIRECT,
    }
}

/// A packet from outside for the host itself.
fn for_the_host(ends: Ends) -> Kind {
    let packet = udp(&port_of(ends.remote, 80), &port_of(ends.external, 22));
    Kind {
        name: format!("for the host, {} UDP", version(ends)),
        program: program::UPLINK_INGRESS,
        interface: "eth0",
        next: Next::Same(packet.frame()),
        yardstick: Yardstick::of(ends.family, protocol::UDP),
        action: NEXT,
    }
}
