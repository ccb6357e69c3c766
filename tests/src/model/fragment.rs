//! Fragments: those after the first have no ports, and follow it.

use std::collections::HashMap;
use std::net::IpAddr;

use vnet_common::family::Family;

use super::{Packet, flow::Id};

/// What makes fragments one datagram's (RFC 791; RFC 8200, section 4.5, where the protocol is no part),
/// and which way they go.
type Datagram = (IpAddr, IpAddr, u32, Option<u8>, bool);

/// The first fragments that were seen.
#[derive(Default)]
pub(super) struct Fragments {
    seen: HashMap<Datagram, Id>,
}

impl Fragments {
    pub(super) fn remember(&mut self, packet: &Packet, outbound: bool, id: Id) {
        self.seen.insert(datagram(packet, outbound), id);
    }

    pub(super) fn flow_of(&self, packet: &Packet, outbound: bool) -> Option<Id> {
        self.seen.get(&datagram(packet, outbound)).copied()
    }

    /// What was seen is longer ago than a datagram takes.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
    }
}

fn datagram(packet: &Packet, outbound: bool) -> Datagram {
    let protocol = (packet.family == Family::Ipv4).then_some(packet.protocol);
    (packet.source, packet.destination, packet.identification, protocol, outbound)
}
