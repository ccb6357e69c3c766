//! Packets from outside at the ingress of an uplink; and of other networks' guests to the host.

use vnet_common::{
    family::Family,
    reason::{DropReason, Handover},
};

use super::{
    Counter, Model, Packet, Run, Stop, World,
    bridge::{MTU, check_exceptions, is_for_others, is_group, is_link_local, is_martian},
    flow::Id,
    outcome::{Done, Step},
    packet::{Fragment, family},
    policy::Verdict,
    rewrite::{self, Side},
    stranger::may_be_first,
};

impl Model {
    pub(super) fn uplink_ingress(&mut self, run: &mut Run<'_>) -> Step<Done> {
        let frame = run.arrival.frame;
        let Some(family) = family(frame) else { return Ok(Done::Passed(None)) };
        if is_for_others(frame) {
            return Ok(Done::Passed(None));
        }
        let packet = match Packet::parse(frame, family) {
            // Whether it is for a guest is judged at the bridge.
            Err(DropReason::HeaderChain) => return Err(Handover::IpOptions.into()),
            parsed => parsed?,
        };
        match self.reply(run, &packet) {
            Err(Stop::Handover(Handover::NoFlow)) => match self.judge_arrival(run, &packet) {
                Err(Stop::Handover(Handover::NoFlow))
                    if !is_group(packet.destination) && !packet.is_of_the_link() =>
                {
                    Err(self.of_no_flow(run, &packet, Handover::NoFlow))
                }
                step => step,
            },
            step => step,
        }
    }

    /// What comes to an address of the host's that guests of other networks are masqueraded to.
    pub(super) fn reply_at_bridge(&mut self, run: &mut Run<'_>, packet: &Packet) -> Step<Done> {
        run.network = 0;
        match self.reply(run, packet) {
            Err(Stop::Handover(Handover::NoFlow)) => {
                run.network = self.world.network_of_bridge(run.arrival.ifindex);
                Err(self.of_no_flow(run, packet, Handover::ToHost))
            }
            step => step,
        }
    }

    /// The stack gets what is of no flow; of fragments the rest of the datagram is the stack's, too, unless
    /// the first one is still to come.
    fn of_no_flow(&mut self, run: &Run<'_>, packet: &Packet, to_stack: Handover) -> Stop {
        let (ifindex, bytes) = (run.arrival.ifindex, run.arrival.frame.len());
        if packet.fragment == Fragment::First {
            self.fragments.remember(packet, false, None);
        }
        if packet.follows_its_first() && self.fragments.hold(packet, ifindex, bytes) {
            return Handover::HeldFragment.into();
        }
        to_stack.into()
    }

    /// A packet of a flow, or an error about one; else the handover says that there is no flow.
    pub(super) fn reply(&mut self, run: &mut Run<'_>, packet: &Packet) -> Step<Done> {
        if let Some(id) = self.find(packet, false)
            && self.may_arrive_at(id, run.arrived_at())
            && self.is_current(id)
        {
            self.check_remote(run, id)?;
            return self.deliver_with_held(run, packet, id);
        }
        if packet.is_icmp_error() {
            return self.error_from_outside(run, packet);
        }
        Err(Handover::NoFlow.into())
    }

    /// As [`Model::deliver`], unless others have waited for this first fragment: it comes again then, with
    /// them.
    fn deliver_with_held(&mut self, run: &mut Run<'_>, packet: &Packet, id: Id) -> Step<Done> {
        let is_awaited = packet.fragment == Fragment::First
            && run.turned_at.is_none()
            && self.fragments.release(packet, run.arrival.ifindex);
        if is_awaited {
            self.tried.push("(fragments sent after their first)");
            return Ok(Done::Dropped);
        }
        self.deliver(run, packet, id)
    }

    /// What turns round has an address of the host's for a remote, which nobody outside has.
    pub(super) fn check_remote(&self, run: &mut Run<'_>, id: Id) -> Step<()> {
        let flow = self.flows.get(id).ok_or(Handover::NoFlow)?;
        run.network = flow.network;
        if flow.is_hairpin && run.turned_at.is_none() {
            return Err(DropReason::SpoofedSource.into());
        }
        Ok(())
    }

    /// Routes to outside may be asymmetric; between networks the answer comes where the question went.
    pub(super) fn may_arrive_at(&self, id: Id, ifindex: u32) -> bool {
        let Some(flow) = self.flows.get(id) else { return false };
        let is_bridge = |ifindex| self.world.network_of_bridge(ifindex) != 0;
        flow.uplink == ifindex || !(is_bridge(flow.uplink) || is_bridge(ifindex))
    }

    /// Whether replies may use a flow in this epoch; ends one that they may not.
    pub(super) fn is_current(&mut self, id: Id) -> bool {
        let epoch = self.world.config.epoch;
        let Some(flow) = self.flows.get(id) else { return false };
        if flow.epoch_inbound == epoch {
            return true;
        }
        let world = &self.world;
        let owner = world.owner_of(flow.inside.0);
        let family = if flow.inside.0.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let to = world.end_of_interface(flow.uplink);
        let bridge = if flow.inside_is_host() { 0 } else { world.bridge_of(owner.slot) };
        let may_go_on = owner.slot != 0
            && owner.slot == flow.network
            && bridge == flow.bridge
            && world.verdict(world.end_of_network(owner.slot), to, family) == Verdict::Masquerade
            && self.keeps_external(flow);
        if !may_go_on {
            self.flows.end(id);
            return false;
        }
        let mtu = world.network(owner.slot).map_or(0, |network| network.mtu.into());
        if let Some(flow) = self.flows.get_mut(id) {
            flow.epoch_inbound = epoch;
            flow.mtu_inbound = mtu;
        }
        true
    }

    /// Translates a packet back and brings it to the guest.
    pub(super) fn deliver(&mut self, run: &mut Run<'_>, packet: &Packet, id: Id) -> Step<Done> {
        let mut frame = run.arrival.frame.to_vec();
        let now = self.flows.now;
        let flow = self.flows.get_mut(id).ok_or(DropReason::NoFlow)?;
        flow.touch(packet, false, frame.len(), now);
        let flow = flow.clone();
        run.network = flow.network;
        self.count(Counter::Inbound(flow.network, frame.len()));
        rewrite::endpoint(&mut frame, packet, Side::Destination, flow.inside);
        let exception = check_exceptions(packet, flow.mtu_inbound).err();
        let exception = exception.filter(|_| !flow.inside_is_host());
        let by_stack = flow.inside_is_host() || flow.inside_is_routed || exception.is_some();
        if run.turned_at.is_some() && by_stack {
            return Err(DropReason::HairpinException.into());
        }
        if flow.inside_is_host() {
            return Ok(Done::Passed(Some(frame)));
        }
        if let Some(handover) = exception {
            self.count(Counter::Handover(flow.network, handover));
        }
        if by_stack {
            return Ok(Done::ThroughStack(frame));
        }
        if run.turned_at.is_some() {
            self.tried.push("(from guest to guest by an external endpoint)");
        }
        rewrite::decrement_ttl(&mut frame, packet.family);
        Ok(Done::Redirected(frame))
    }

    /// A packet from outside of no flow.
    fn judge_arrival(&mut self, run: &mut Run<'_>, packet: &Packet) -> Step<Done> {
        let world = &self.world;
        let (ifindex, family) = (run.arrival.ifindex, packet.family);
        if is_group(packet.destination) || packet.is_of_the_link() {
            return Err(Handover::NoFlow.into());
        }
        let source = world.owner_of(packet.source);
        run.network = source.slot;
        world.check_source(source, ifindex, family)?;
        run.network = 0;
        // A guest could answer none but who has an address beyond the link that is no network's.
        let is_station =
            source.slot == 0 && !is_martian(packet.source) && !is_link_local(packet.source);
        if is_station
            && may_be_first(packet)
            && let Some(behind) = self.behind(packet)
            && let Some(id) = self.admit(run, packet, behind)?
        {
            return self.deliver_with_held(run, packet, id);
        }
        let world = &self.world;
        let owner = world.owner_of(packet.destination);
        run.network = owner.slot;
        if owner.slot == 0 {
            return Err(Handover::NoFlow.into());
        }
        if owner.is_host {
            return Err(Handover::ToHost.into());
        }
        if is_link_local(packet.source) || is_martian(packet.source) {
            return Err(DropReason::SpoofedSource.into());
        }
        let is_open = |slot| world.mode(slot, family) == vnet_common::policy::Mode::Open;
        if source.slot != 0 && !is_open(owner.slot) {
            run.network = source.slot;
            return Err(DropReason::SpoofedSource.into());
        }
        let (from, to) = (world.end_of_interface(ifindex), world.end_of_network(owner.slot));
        match world.verdict(from, to, family) {
            Verdict::Accept | Verdict::Masquerade => {}
            Verdict::LeaveToHost => return Err(Handover::OpenNetwork.into()),
            Verdict::Reject => return Err(World::rejection(from, to).into()),
        }
        let route = world.route(packet.source, packet.destination)?;
        // The host's routes say otherwise than the definition.
        if route.ifindex != to.ifindex {
            return Err(Handover::NoRoute.into());
        }
        check_exceptions(packet, MTU)?;
        let mut frame = run.arrival.frame.to_vec();
        rewrite::decrement_ttl(&mut frame, family);
        self.count(Counter::Inbound(owner.slot, frame.len()));
        Ok(Done::Redirected(frame))
    }
}
