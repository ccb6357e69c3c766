//! Fragments: those after the first have no ports, and follow it.

use std::collections::HashMap;
use std::net::IpAddr;

use vnet_common::{
    family::Family,
    limits::{HELD_FRAME_BYTES, HELD_PER_DATAGRAM},
};

use super::{Packet, flow::Id};

/// What makes fragments one datagram's (RFC 791; RFC 8200, section 4.5, where the protocol is no part),
/// and which way they go.
type Datagram = (IpAddr, IpAddr, u32, Option<u8>, bool);

/// The first fragments that were seen, and those from outside that came before theirs.
#[derive(Default)]
pub(super) struct Fragments {
    /// With the flow; `None` if it is the host's own.
    seen: HashMap<Datagram, Option<Id>>,
    /// With the interface where they came in.
    held: HashMap<Datagram, Vec<u32>>,
}

impl Fragments {
    pub(super) fn remember(&mut self, packet: &Packet, outbound: bool, id: Option<Id>) {
        self.seen.insert(datagram(packet, outbound), id);
    }

    pub(super) fn flow_of(&self, packet: &Packet, outbound: bool) -> Option<Id> {
        self.seen.get(&datagram(packet, outbound)).copied().flatten()
    }

    /// Keeps a later fragment from outside of which nothing is known; `false` if it is not kept.
    pub(super) fn hold(&mut self, packet: &Packet, ifindex: u32, bytes: usize) -> bool {
        let datagram = datagram(packet, false);
        if self.seen.contains_key(&datagram) || bytes > HELD_FRAME_BYTES {
            return false;
        }
        let held = self.held.entry(datagram).or_default();
        // What came in elsewhere is another datagram's.
        if let Some(other) = held.iter_mut().find(|other| **other != ifindex) {
            *other = ifindex;
            return true;
        }
        let has_room = held.len() < HELD_PER_DATAGRAM as usize;
        if has_room {
            held.push(ifindex);
        }
        has_room
    }

    /// Whether fragments have waited for this first one, which then comes again, with them behind it.
    pub(super) fn release(&mut self, packet: &Packet, ifindex: u32) -> bool {
        let datagram = datagram(packet, false);
        let Some(held) = self.held.remove(&datagram) else { return false };
        held.contains(&ifindex)
    }

    /// What was seen is longer ago than a datagram takes.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.held.clear();
    }
}

fn datagram(packet: &Packet, outbound: bool) -> Datagram {
    let protocol = (packet.family == Family::Ipv4).then_some(packet.protocol);
    (packet.source, packet.destination, packet.identification, protocol, outbound)
}
