//! What the host's stack sends, at the egress of uplinks and bridges.

use vnet_common::{
    names::{FORWARDED_MARK, INBOUND_MARK},
    policy::Mode,
    reason::DropReason,
};

use super::{
    Model, Packet, Run, World,
    bridge::{MTU, is_link_local_group},
    flow::{Opening, Way},
    outcome::{Done, Step},
    packet::{ETHERNET, family},
    policy::{End, Owner, Verdict},
};

impl Model {
    pub(super) fn uplink_egress(&mut self, run: &mut Run<'_>) -> Step<Done> {
        let Some(family) = family(run.arrival.frame) else { return Ok(Done::Passed(None)) };
        if run.take_mark(FORWARDED_MARK) {
            return Ok(Done::Passed(None));
        }
        let ip = &run.arrival.frame[ETHERNET..];
        let (source, _) = Packet::ends(ip, family).ok_or(DropReason::Malformed)?;
        let owner = self.world.owner_of(source);
        let (ifindex, ingress) = (run.arrival.ifindex, run.arrival.ingress_ifindex);
        let outside = End { slot: 0, ifindex };
        // Translated towards a guest, and routed outside again.
        if run.take_mark(INBOUND_MARK) && ingress != 0 {
            return Err(DropReason::PolicyRejected.into());
        }
        if ingress == 0 {
            if owner.slot == 0 || self.world.mode(owner.slot, family) != Mode::Nat {
                return self.host_sends(run, false);
            }
            run.network = owner.slot;
            let from = self.world.end_of_network(owner.slot);
            return match self.world.verdict(from, outside, family) {
                Verdict::Masquerade => self.masquerade(run, owner),
                _ => Err(DropReason::PolicyRejected.into()),
            };
        }
        let arrived_from = self.world.network_of_bridge(ingress);
        let network = if owner.slot != 0 && !owner.is_host { owner.slot } else { arrived_from };
        run.network = network;
        if network != 0 || owner.is_host {
            self.world.check_forwarded_source(owner, ingress, family)?;
        }
        if network == 0 {
            return Ok(Done::Passed(None));
        }
        match self.world.verdict(self.world.end_of_network(network), outside, family) {
            Verdict::Accept | Verdict::LeaveToHost => Ok(Done::Passed(None)),
            Verdict::Reject => Err(DropReason::PolicyRejected.into()),
            // The host's own rules have translated it.
            Verdict::Masquerade if owner.is_host => Ok(Done::Passed(None)),
            Verdict::Masquerade => self.masquerade(run, owner),
        }
    }

    pub(super) fn bridge_egress(&mut self, run: &mut Run<'_>) -> Step<Done> {
        let Some(family) = family(run.arrival.frame) else { return Ok(Done::Passed(None)) };
        if run.take_mark(FORWARDED_MARK) {
            return Ok(Done::Passed(None));
        }
        let (ifindex, ingress) = (run.arrival.ifindex, run.arrival.ingress_ifindex);
        // Translated towards a guest: it may go to that one's bridge alone.
        if run.take_mark(INBOUND_MARK) && ingress != 0 {
            let ip = &run.arrival.frame[ETHERNET..];
            let (_, destination) = Packet::ends(ip, family).ok_or(DropReason::Malformed)?;
            run.network = self.world.owner_of(destination).slot;
            if run.network != 0 && self.world.bridge_of(run.network) == ifindex {
                return Ok(Done::Passed(None));
            }
            return Err(DropReason::NoFlow.into());
        }
        if ingress == 0 {
            return self.host_sends(run, true);
        }
        let network = self.world.network_of_bridge(ifindex);
        if network == 0 {
            return Err(DropReason::NoNetwork.into());
        }
        run.network = network;
        let ip = &run.arrival.frame[ETHERNET..];
        let (source, _) = Packet::ends(ip, family).ok_or(DropReason::Malformed)?;
        let world = &self.world;
        let owner = world.owner_of(source);
        world.check_forwarded_source(owner, ingress, family)?;
        let is_elsewhere = owner.slot != 0 && world.bridge_of(owner.slot) != ingress;
        if !owner.is_host && is_elsewhere && world.mode(network, family) != Mode::Open {
            return Err(DropReason::SpoofedSource.into());
        }
        let (from, to) = (world.end_of_interface(ingress), world.end_of_network(network));
        match world.verdict(from, to, family) {
            Verdict::Accept | Verdict::LeaveToHost => Ok(Done::Passed(None)),
            Verdict::Reject => Err(World::rejection(from, to).into()),
            Verdict::Masquerade if owner.is_host => Ok(Done::Passed(None)),
            Verdict::Masquerade => self.masquerade(run, owner),
        }
    }

    /// Translates what the stack sends out with a hidden source.
    fn masquerade(&mut self, run: &mut Run<'_>, owner: Owner) -> Step<Done> {
        let Some(family) = family(run.arrival.frame) else { return Ok(Done::Passed(None)) };
        run.network = owner.slot;
        let packet = Packet::parse(run.arrival.frame, family)?;
        if is_link_local_group(packet.destination) {
            return Err(DropReason::MulticastLeak.into());
        }
        let ifindex = run.arrival.ifindex;
        let known = self.find(&packet, true);
        if let Some(flow) = known.and_then(|id| self.flows.get(id))
            && flow.uplink == ifindex
            && flow.epoch_outbound == self.world.config.epoch
        {
            return Ok(self.translate(run, &packet, known));
        }
        // The stack has chosen the interface; the next hop is what the routes say, if they agree.
        let way = match self.world.route(packet.source, packet.destination) {
            Ok(route) if route.ifindex == ifindex => {
                Way { ifindex, next_hop: route.gateway.unwrap_or(packet.destination), mtu: MTU }
            }
            _ => Way { ifindex, next_hop: packet.destination, mtu: 0 },
        };
        if !self.world.is_uplink(ifindex) {
            return Err(DropReason::NotAnUplink.into());
        }
        if packet.is_icmp_error() {
            let (frame, _) = self.translate_error_of_guest(run, &packet, false, false)?;
            return Ok(Done::Passed(Some(frame)));
        }
        if known.is_none() && packet.follows_its_first() {
            return Ok(Done::Passed(Some(self.translate_fragment(run, &packet, owner, &way)?)));
        }
        let mut flow = self.renew(known, owner, &way, false);
        if flow.is_none() {
            let inside_is_host = run.arrival.ingress_ifindex == 0;
            let (packet, way) = (&packet, &way);
            let opening = Opening { packet, owner, way, inside_is_host, is_hairpin: false };
            flow = Some(self.open(run, &opening)?);
        }
        Ok(self.translate(run, &packet, flow))
    }

    fn translate(&mut self, run: &Run<'_>, packet: &Packet, id: Option<u64>) -> Done {
        Done::Passed(Some(self.translate_out(run, packet, id)))
    }
}

impl Run<'_> {
    /// Takes a mark off the packet, if it has that one.
    fn take_mark(&mut self, mark: u32) -> bool {
        let has_it = self.mark == mark;
        if has_it {
            self.mark = 0;
        }
        has_it
    }
}
