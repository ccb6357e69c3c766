//! Packets between guests by way of the host's address: out and in again at once (RFC 4787, REQ-9).

use vnet_common::{flow::protocol, reason::DropReason};

use super::{
    Arrival, Fragment, Model, Packet, Run, Stop,
    flow::Id,
    outcome::{Done, Step},
    packet::family,
    stranger::may_be_first,
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
        let behind = self.behind(packet)?;
        let is_bridge = self.world.network_of_bridge(behind.uplink) != 0;
        let mtu = self.world.network(behind.network).map_or(0, |network| network.mtu);
        (may_turn && !is_bridge).then_some((behind.uplink, mtu.into()))
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
            has_turned: true,
        };
        let mut step = self.reply(&mut turned, &packet);
        if matches!(step, Err(Stop::Handover(_)))
            && may_be_first(&packet)
            && let Some(behind) = self.behind(&packet)
        {
            step = match self.admit(&mut turned, &packet, behind) {
                Ok(Some(id)) => self.deliver(&mut turned, &packet, id),
                Ok(None) => step,
                Err(refusal) => Err(refusal),
            };
        }
        run.network = turned.network;
        run.has_turned = true;
        match step {
            Err(Stop::Handover(_)) if packet.is_icmp_error() => {
                run.network = 0;
                Err(DropReason::UnrelatedIcmpError.into())
            }
            Err(Stop::Handover(_)) => {
                run.network = self.network_behind(&packet);
                Err(DropReason::Filtered.into())
            }
            step => step,
        }
    }
}
