//! Guests' packets at the ingress of their bridge.

use std::net::IpAddr;

use vnet_common::{
    policy::Mode,
    reason::{DropReason, Handover},
};

use super::{
    Counter, Model, Packet, Route, Run, Stop, World,
    flow::{Id, Opening, Way},
    outcome::{Done, Step},
    packet::{ETHERNET, Fragment, family},
    policy::{End, Owner, Verdict},
    rewrite::{self, Side},
};

/// What every interface of the rig takes.
pub(super) const MTU: usize = 1500;

impl Model {
    pub(super) fn bridge_ingress(&mut self, run: &mut Run<'_>) -> Step<Done> {
        let frame = run.arrival.frame;
        let family = family(frame).ok_or(Handover::NotIp)?;
        if is_for_others(frame) {
            return Ok(Done::Passed(None));
        }
        let packet = Packet::parse(frame, family)?;
        let bridge = run.arrival.ifindex;
        let mut known = self.find(&packet, true);
        if let Some(flow) = known.and_then(|id| self.flows.get(id)) {
            run.network = flow.network;
            if flow.bridge != bridge {
                return Err(DropReason::SpoofedSource.into());
            }
            // Later fragments have no port to ask for.
            let is_answered = !flow.is_hairpin
                || packet.fragment == Fragment::Later
                || self.turning_point(&packet, known).is_some();
            if flow.epoch_outbound == self.world.config.epoch && is_answered {
                return self.forward(run, &packet, known);
            }
        }
        let judged = match self.judge(run, &packet, known) {
            // About a packet that came from another guest by way of the host's address.
            Err(Stop::Handover(Handover::ToHost))
                if packet.is_icmp_error() && self.world.mode(run.network, family) == Mode::Nat =>
            {
                return match self.translate_error_of_guest(run, &packet, true, true) {
                    Ok((frame, turned_at)) => self.turn(run, &frame, turned_at),
                    Err(_) => Err(Handover::ToHost.into()),
                };
            }
            Err(Stop::Handover(Handover::ToHost))
                if known.is_none() && self.world.is_uplink(bridge) =>
            {
                return self.reply_at_bridge(run, &packet);
            }
            Err(stop) => {
                // What is no longer allowed ends.
                let is_over = matches!(stop, Stop::Drop(_) | Stop::Handover(Handover::ToHost));
                if let (true, Some(id)) = (is_over, known) {
                    self.flows.end(id);
                }
                return Err(stop);
            }
            Ok(judged) => judged,
        };
        let Judged { owner, way, masquerade, turns } = judged;
        if !masquerade {
            if let Some(id) = known {
                self.flows.end(id);
            }
            return self.forward_as_it_is(run, &packet, &way);
        }
        check_exceptions_of(run, &packet, way.mtu, turns)?;
        if packet.is_icmp_error() {
            run.network = self.world.network_of_bridge(bridge);
            let (frame, turned_at) = self.translate_error_of_guest(run, &packet, true, false)?;
            return match turned_at {
                0 => Ok(Done::Redirected(frame)),
                uplink => self.turn(run, &frame, uplink),
            };
        }
        if known.is_none() && packet.follows_its_first() {
            let mut frame = self.translate_fragment(run, &packet, owner, &way)?;
            rewrite::decrement_ttl(&mut frame, family);
            return Ok(Done::Redirected(frame));
        }
        known = self.renew(known, owner, &way, turns);
        if known.is_none() {
            let (packet, way) = (&packet, &way);
            let opening = Opening { packet, owner, way, inside_is_host: false, is_hairpin: turns };
            known = Some(self.open(run, &opening)?);
        }
        self.forward(run, &packet, known)
    }

    /// A later fragment that came before its first: it has no ports and so no flow, but the address that
    /// its guest has on that way.
    pub(super) fn translate_fragment(
        &mut self,
        run: &mut Run<'_>,
        packet: &Packet,
        owner: Owner,
        way: &Way,
    ) -> Step<Vec<u8>> {
        run.network = owner.slot;
        let external = self
            .external_address(packet.source, owner.slot, way)
            .ok_or(DropReason::NoExternalAddress)?;
        let mut frame = run.arrival.frame.to_vec();
        self.tried.push("(fragment out before its first)");
        self.count(Counter::Outbound(owner.slot, frame.len()));
        rewrite::address(&mut frame, packet.family, ETHERNET, Side::Source, external);
        Ok(frame)
    }

    /// Translates a packet of a flow and sends it out.
    fn forward(&mut self, run: &mut Run<'_>, packet: &Packet, id: Option<Id>) -> Step<Done> {
        let flow = id.and_then(|id| self.flows.get(id)).ok_or(DropReason::NoFlow)?;
        run.network = flow.network;
        let (is_hairpin, uplink) = (flow.is_hairpin, flow.uplink);
        check_exceptions_of(run, packet, flow.mtu_outbound, is_hairpin)?;
        let mut frame = self.translate_out(run, packet, id);
        if is_hairpin {
            return self.turn(run, &frame, uplink);
        }
        rewrite::decrement_ttl(&mut frame, packet.family);
        Ok(Done::Redirected(frame))
    }

    /// The packet of a flow as the outside sees it, on account of flow and network.
    pub(super) fn translate_out(
        &mut self,
        run: &Run<'_>,
        packet: &Packet,
        id: Option<Id>,
    ) -> Vec<u8> {
        let mut frame = run.arrival.frame.to_vec();
        let now = self.flows.now;
        if let Some(flow) = id.and_then(|id| self.flows.get_mut(id)) {
            flow.touch(packet, true, frame.len(), now);
            let (external, network) = (flow.external, flow.network);
            self.count(Counter::Outbound(network, frame.len()));
            rewrite::endpoint(&mut frame, packet, Side::Source, external);
        }
        frame
    }

    /// A flow of an earlier epoch goes on if its way out and its address are the same; else it ends.
    pub(super) fn renew(
        &mut self,
        known: Option<Id>,
        owner: Owner,
        way: &Way,
        is_hairpin: bool,
    ) -> Option<Id> {
        let id = known?;
        let epoch = self.world.config.epoch;
        let flow = self.flows.get(id)?;
        let goes_on = (flow.is_forwarded || flow.uplink == way.ifindex)
            && flow.network == owner.slot
            && self.keeps_external(flow);
        if !goes_on {
            self.flows.end(id);
            return None;
        }
        let flow = self.flows.get_mut(id)?;
        (flow.next_hop, flow.mtu_outbound) = (way.next_hop, way.mtu);
        flow.epoch_outbound = epoch;
        flow.uplink = way.ifindex;
        flow.is_hairpin = is_hairpin;
        Some(id)
    }

    /// Sends an accepted packet on its way as it is.
    fn forward_as_it_is(&mut self, run: &Run<'_>, packet: &Packet, way: &Way) -> Step<Done> {
        check_exceptions(packet, way.mtu)?;
        let mut frame = run.arrival.frame.to_vec();
        self.count(Counter::Outbound(run.network, frame.len()));
        let to = self.world.network_of_bridge(way.ifindex);
        if to != 0 {
            self.count(Counter::Inbound(to, frame.len()));
        }
        rewrite::decrement_ttl(&mut frame, packet.family);
        Ok(Done::Redirected(frame))
    }

    /// Policy and route.
    fn judge(&self, run: &mut Run<'_>, packet: &Packet, known: Option<Id>) -> Step<Judged> {
        let world = &self.world;
        let (bridge, family) = (run.arrival.ifindex, packet.family);
        let network = world.network_of_bridge(bridge);
        if network == 0 {
            return Err(DropReason::NoNetwork.into());
        }
        run.network = network;
        let owner = world.owner_of(packet.source);
        // Who has no address yet speaks to groups alone.
        let is_of_link = if packet.source.is_unspecified() {
            is_group(packet.destination)
        } else {
            is_link_local(packet.source)
        };
        if !is_of_link {
            world.check_source(owner, bridge, family)?;
        }
        if is_group(packet.destination) {
            return Err(Handover::Multicast.into());
        }
        if is_link_local(packet.destination) || packet.is_of_the_link() {
            return Err(Handover::LinkLocal.into());
        }
        let from = world.end_of_interface(bridge);
        let turns_at = match world.mode(network, family) {
            Mode::Nat => self.turning_point(packet, known),
            _ => None,
        };
        let route = turns_at.map(|(ifindex, _)| Route { ifindex, gateway: None, source: None });
        let route = match route.map_or_else(|| world.route(packet.source, packet.destination), Ok) {
            Err(Handover::NoRoute) if world.is_refused_anywhere(network, packet) => {
                return Err(DropReason::PolicyRejected.into());
            }
            route => route?,
        };
        if is_of_link {
            return Err(DropReason::SpoofedSource.into());
        }
        let to = world.end_of_interface(route.ifindex);
        let masquerade = match world.verdict(from, to, family) {
            Verdict::Reject => return Err(World::rejection(from, to).into()),
            Verdict::LeaveToHost => return Err(Handover::OpenNetwork.into()),
            Verdict::Masquerade if world.has_hooks(to) => true,
            Verdict::Masquerade => return Err(DropReason::NotAnUplink.into()),
            Verdict::Accept if world.has_hooks(to) => false,
            Verdict::Accept => return Err(Handover::OtherInterface.into()),
        };
        if masquerade && !world.is_uplink(to.ifindex) {
            return Err(DropReason::NotAnUplink.into());
        }
        let next_hop = route.gateway.unwrap_or(packet.destination);
        let mtu = turns_at.map_or(MTU, |(_, mtu)| mtu);
        let way = Way { ifindex: route.ifindex, next_hop, mtu };
        Ok(Judged { owner, way, masquerade, turns: turns_at.is_some() })
    }
}

impl World {
    /// Whether the policy refuses a packet without a route wherever that might lead.
    fn is_refused_anywhere(&self, network: u16, packet: &Packet) -> bool {
        let owner = self.owner_of(packet.destination);
        if owner.is_host || owner.slot == network {
            return false;
        }
        let to = if owner.slot == 0 {
            let bound = self.network(network).map_or(0, |network| network.forward_ifindex);
            End { slot: 0, ifindex: bound }
        } else {
            self.end_of_network(owner.slot)
        };
        self.verdict(self.end_of_network(network), to, packet.family) == Verdict::Reject
    }
}

/// What policy and route say of a packet that may go on.
struct Judged {
    owner: Owner,
    way: Way,
    masquerade: bool,
    /// Whether it is for a guest behind an external endpoint of this host.
    turns: bool,
}

/// What only the host's stack does right.
pub(super) fn check_exceptions(packet: &Packet, mtu: usize) -> Result<(), Handover> {
    if packet.ttl <= 1 {
        return Err(Handover::TtlExpiring);
    }
    if packet.has_options {
        return Err(Handover::IpOptions);
    }
    if packet.total_len > mtu {
        return Err(Handover::OverMtu);
    }
    Ok(())
}

/// As [`check_exceptions`]; where a packet turns round, there is no stack to leave it to.
fn check_exceptions_of(run: &mut Run<'_>, packet: &Packet, mtu: usize, turns: bool) -> Step<()> {
    match check_exceptions(packet, mtu) {
        Err(_) if turns => {
            run.turning_mtu = Some(mtu);
            Err(DropReason::HairpinException.into())
        }
        checked => Ok(checked?),
    }
}

/// A frame to another host, here because somebody listens; every interface of the rig has the same
/// address.
pub(super) fn is_for_others(frame: &[u8]) -> bool {
    frame[0] & 1 == 0 && frame[..6] != [0x52, 0x54, 0, 0, 0, 0xfe]
}

pub(super) fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// IPv6 link-local addresses; of IPv4 none is treated apart.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_unspecified(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
    }
}

/// Sources of no single host beyond the link.
pub(super) fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => {
            address.is_multicast() || address.is_unspecified() || address.is_loopback()
        }
    }
}

/// Groups that libvirt does not masquerade to.
pub(super) fn is_link_local_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0] || address.is_broadcast(),
        IpAddr::V6(address) => {
            let [first, second, ..] = address.octets();
            first == 0xff && second & 0xf == 2
        }
    }
}
