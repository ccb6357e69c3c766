//! Packets between guests by way of the host's address: out and in again at once (RFC 4787, REQ-9).

use vnet_common::{flow::protocol, reason::DropReason};

use super::{
    Arrival, Fragment, Model, Packet, Run, Stop,
    flow::Id,
    outcome::{Done, Step},
    packet::family,
};

impl Model {
    /// The uplink behind whose address a guest is whom a packet of another one is for, and how long that may
    /// be.
    pub(super) fn turning_point(&self, packet: &Packet, known: Option<Id>) -> Option<(u32, usize)> {
        if let Some(flow) = known.and_then(|id| self.flows.get(id))
            && flow.is_hairpin
            && let Some(other) = self.flows.inbound(flow.protocol, flow.external, flow.remote)
        {
            return self.flows.get(other).map(|other| (other.uplink, other.mtu_inbound));
        }
        let may_turn = matches!(packet.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
            && packet.fragment != Fragment::Later;
        let endpoint = (packet.destination, packet.destination_port);
        let holder = self.holder(packet.protocol, endpoint)?;
        let is_host = self.world.has_socket(packet.protocol, endpoint.0, endpoint.1);
        let is_bridge = self.world.network_of_bridge(holder.uplink) != 0;
        let turns = may_turn && holder.idle_since.is_none() && !is_host && !is_bridge;
        let mtu = self.world.network(holder.network).map_or(0, |network| network.mtu);
        turns.then_some((holder.uplink, mtu.into()))
    }

    /// Takes a translated packet as one from outside. It goes to a guest or nowhere.
    pub(super) fn turn(&mut self, run: &mut Run<'_>, frame: &[u8], uplink: u32) -> Step<Done> {
        let family = family(frame).ok_or(DropReason::Malformed)?;
        let packet = Packet::parse(frame, family)?;
        let mut turned = Run {
            arrival: Arrival { frame, ..run.arrival },
            seen: run.seen,
            network: 0,
            mark: run.mark,
            turned_at: Some(uplink),
            turning_mtu: None,
        };
        let step = self.reply(&mut turned, &packet);
        run.network = turned.network;
        match step {
            Err(Stop::Handover(_)) if packet.is_icmp_error() => {
                run.network = 0;
                Err(DropReason::UnrelatedIcmpError.into())
            }
            Err(Stop::Handover(_)) => {
                let endpoint = (packet.destination, packet.destination_port);
                let holder = self.holder(packet.protocol, endpoint);
                run.network = holder.map_or(0, |holder| holder.network);
                Err(DropReason::Filtered.into())
            }
            step => step,
        }
    }
}
