//! Packets that go on as they are: of routed networks, and IPv6 of NAT networks without NAT66.

use anyhow::Result;
use vnet_common::{
    family::Family,
    flow::Direction::*,
    names::{FORWARDED_MARK, program},
    policy::Mode,
    reason::{DropReason, Handover},
    tcp::flags::*,
};
use vnet_tests::programs::{modes::*, *};

/// A network without masquerade, its guest, and who it talks to.
#[derive(Clone, Copy)]
struct Case {
    network: ModeNetwork,
    family: Family,
}

impl Case {
    /// A routed network of both families, and IPv6 of a NAT network.
    fn all() -> [Self; 3] {
        let case = |slot, family| Self { network: network_of(slot), family };
        [case(ROUTED, Family::Ipv4), case(ROUTED, Family::Ipv6), case(NETWORK, Family::Ipv6)]
    }

    fn end(self, address: &str, port: u16) -> String {
        match self.family {
            Family::Ipv4 => format!("{address}:{port}"),
            Family::Ipv6 => format!("[{address}]:{port}"),
        }
    }

    fn guest(self) -> String {
        self.network.address(self.family, 10)
    }

    fn remote(self) -> &'static str {
        if self.family == Family::Ipv4 { REMOTE } else { REMOTE_6 }
    }

    fn external(self) -> &'static str {
        if self.family == Family::Ipv4 { EXTERNAL } else { EXTERNAL_6 }
    }

    /// What needs no state either: any protocol, any part of a connection.
    fn packets(self) -> Vec<Packet> {
        let (guest, remote) = (self.guest(), self.remote());
        let (inside, outside) = (self.end(&guest, 20000), self.end(remote, 80));
        let about = udp(&outside, &inside);
        vec![
            tcp(&inside, &outside, SYN),
            tcp(&inside, &outside, RST | ACK),
            udp(&inside, &outside),
            echo_request(&self.end(&guest, 7), remote),
            echo_reply(&guest, &self.end(remote, 7)),
            raw(&guest, remote, 47),
            icmp_error(&guest, remote, (3, 0), &about, 60),
        ]
    }

    fn send_from_guest(self, rig: &mut Rig, frame: &[u8]) -> Result<Outcome> {
        let bridge = self.network.bridge;
        rig.at(program::BRIDGE_INGRESS, bridge, Origin::Interface(bridge), frame)
    }
}

fn swap(packet: &Packet) -> Packet {
    let mut swapped = packet.clone();
    (swapped.source, swapped.destination) = (packet.destination, packet.source);
    swapped
}

/// Runs `work` for each case.
fn for_all(work: impl Fn(&mut Rig, Case) -> Result<()> + Sync) -> Result<()> {
    for case in Case::all() {
        with_modes(|rig| {
            rig.without_nat66(NETWORK)?;
            work(rig, case)
        })?;
    }
    Ok(())
}

#[test]
fn packets_pass_in_both_directions_without_state() -> Result<()> {
    for_all(|rig, case| {
        let slot = case.network.slot;
        for packet in case.packets() {
            let outcome = case.send_from_guest(rig, &packet.frame())?;
            outcome.assert_redirected(slot, Outbound, &packet.clone().ttl(63));
            let back = swap(&packet);
            let outcome = rig.from_outside(&back)?;
            outcome.assert_redirected(slot, Inbound, &back.ttl(63));
        }
        let tables = rig.tables()?;
        assert!(tables.sessions.is_empty() && tables.mappings.is_empty());
        assert!(tables.guests.is_empty());
        Ok(())
    })
}

#[test]
fn every_fragment_passes_as_it_is() -> Result<()> {
    for_all(|rig, case| {
        let big = case.packets()[2].clone().payload(&[7; 2500]);
        let sent = big.fragments(1448);
        let forwarded = big.ttl(63).fragments(1448);
        // Also out of order.
        for place in [1, 0] {
            let outcome = case.send_from_guest(rig, &sent[place])?;
            let slot = case.network.slot;
            let moved = counted(&[
                (&format!("{slot} outbound packets"), 1),
                (&format!("{slot} outbound bytes"), sent[place].len() as u64),
            ]);
            outcome.assert(Verdict::Redirect, &forwarded[place], FORWARDED_MARK, &moved);
        }
        Ok(())
    })
}

#[test]
fn exceptions_are_left_to_the_stack_as_they_came() -> Result<()> {
    for_all(|rig, case| {
        let slot = case.network.slot;
        let packet = &case.packets()[2];
        let header = if case.family == Family::Ipv4 { 28 } else { 48 };
        let largest = packet.clone().payload(&vec![7; 1500 - header]);
        let too_large = packet.clone().payload(&vec![7; 1501 - header]);
        for (packet, handover) in [
            (packet.clone().ttl(1), Handover::TtlExpiring),
            (packet.clone().ttl(0), Handover::TtlExpiring),
            (too_large, Handover::OverMtu),
        ] {
            let outcome = case.send_from_guest(rig, &packet.frame())?;
            outcome.assert_handed_over(slot, handover, &packet);
            let back = swap(&packet);
            rig.from_outside(&back)?.assert_handed_over(slot, handover, &back);
        }
        let outcome = case.send_from_guest(rig, &largest.frame())?;
        outcome.assert_redirected(slot, Outbound, &largest.clone().ttl(63));
        let back = swap(&largest);
        rig.from_outside(&back)?.assert_redirected(slot, Inbound, &back.ttl(63));
        Ok(())
    })
}

#[test]
fn options_are_the_stacks() -> Result<()> {
    for_all(|rig, case| {
        let slot = case.network.slot;
        let packet = case.packets()[2].clone();
        let packet = match case.family {
            Family::Ipv4 => packet.options(&[1, 1, 1, 0]),
            Family::Ipv6 => packet.extension(0, &[0, 1, 4, 0, 0, 0, 0]),
        };
        let outcome = case.send_from_guest(rig, &packet.frame())?;
        outcome.assert_handed_over(slot, Handover::IpOptions, &packet);
        let back = swap(&packet);
        rig.from_outside(&back)?.assert_handed_over(slot, Handover::IpOptions, &back);
        Ok(())
    })
}

#[test]
fn neighbour_that_is_not_resolved_is_resolved_by_the_redirect() -> Result<()> {
    for_all(|rig, case| {
        let absent = case.network.address(case.family, 77);
        let packet = udp(&case.end(case.remote(), 80), &case.end(&absent, 20000));
        assert_eq!(rig.from_outside(&packet)?.verdict, Verdict::Redirect);
        let router = if case.family == Family::Ipv4 { "198.51.100.254" } else { ROUTER_6 };
        rig.ip(&format!("neighbour del {router} dev eth0"))?;
        let packet = &case.packets()[2];
        assert_eq!(case.send_from_guest(rig, &packet.frame())?.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn hosts_own_addresses_are_the_hosts() -> Result<()> {
    for_all(|rig, case| {
        let slot = case.network.slot;
        let gateway = case.network.address(case.family, 1);
        let packet = udp(&case.end(&case.guest(), 20000), &case.end(&gateway, 53));
        let outcome = case.send_from_guest(rig, &packet.frame())?;
        outcome.assert_handed_over(slot, Handover::ToHost, &packet);
        let packet = udp(&case.end(&case.guest(), 20000), &case.end(case.external(), 53));
        let outcome = case.send_from_guest(rig, &packet.frame())?;
        outcome.assert_handed_over(slot, Handover::ToHost, &packet);
        let packet = udp(&case.end(case.remote(), 20000), &case.end(&gateway, 53));
        rig.from_outside(&packet)?.assert_handed_over(slot, Handover::ToHost, &packet);
        Ok(())
    })
}

#[test]
fn prefixes_behind_a_guest_are_reached_and_reach_out() -> Result<()> {
    with_modes(|rig| {
        for (behind, remote) in [
            ("172.20.7.7:20000", "192.0.2.10:80"),
            ("[2001:db8:5000::7]:20000", "[2001:db8:86dd::10]:80"),
        ] {
            let packet = udp(remote, behind);
            let outcome = rig.from_outside(&packet)?;
            outcome.assert_redirected(ROUTED, Inbound, &packet.ttl(63));
            let packet = udp(behind, remote);
            let virbr4 = Origin::Interface("virbr4");
            let outcome = rig.at(program::BRIDGE_INGRESS, "virbr4", virbr4, &packet.frame())?;
            outcome.assert_redirected(ROUTED, Outbound, &packet.ttl(63));
        }
        Ok(())
    })
}

#[test]
fn destination_that_the_hosts_routes_lead_elsewhere_is_the_stacks() -> Result<()> {
    for_all(|rig, case| {
        let slot = case.network.slot;
        let packet = swap(&case.packets()[2]);
        let (length, via) = match case.family {
            Family::Ipv4 => (32, "203.0.113.254"),
            Family::Ipv6 => (128, "2001:db8:113::fe"),
        };
        rig.ip(&format!("route add {}/{length} via {via} dev eth1", case.guest()))?;
        rig.from_outside(&packet)?.assert_handed_over(slot, Handover::NoRoute, &packet);
        Ok(())
    })
}

#[test]
fn way_that_is_no_uplink_is_the_stacks_for_routed_and_refused_for_masqueraded() -> Result<()> {
    for_all(|rig, case| {
        let slot = case.network.slot;
        let there = if case.family == Family::Ipv4 { "198.18.4.9" } else { "2001:db8:1804::9" };
        let packet = udp(&case.end(&case.guest(), 20000), &case.end(there, 53));
        let outcome = case.send_from_guest(rig, &packet.frame())?;
        outcome.assert_handed_over(slot, Handover::OtherInterface, &packet);
        // From there, by way of the stack.
        let bridge = case.network.bridge;
        let vpn0 = Origin::Interface("vpn0");
        let back = swap(&packet);
        rig.at(program::BRIDGE_EGRESS, bridge, vpn0, &back.frame())?.assert_passed(&back);

        for (slot, reason) in [
            (2, DropReason::NotAnUplink),
            (NAT_BOUND, DropReason::PolicyRejected),
            (ROUTED_BOUND, DropReason::PolicyRejected),
            (ISOLATED, DropReason::PolicyRejected),
        ] {
            let network = network_of(slot);
            let packet = packet.clone().from(&network.address(case.family, 10));
            let code = if case.family == Family::Ipv4 { 3 } else { 4 };
            let answer = unreachable(&network.address(case.family, 1), code, &packet);
            let origin = Origin::Interface(network.bridge);
            let frame = packet.frame();
            let outcome = rig.at(program::BRIDGE_INGRESS, network.bridge, origin, &frame)?;
            outcome.assert_rejected(slot, reason, &answer);
        }
        let open = network_of(OPEN);
        let packet = packet.from(&open.address(case.family, 10));
        let origin = Origin::Interface(open.bridge);
        let outcome = rig.at(program::BRIDGE_INGRESS, open.bridge, origin, &packet.frame())?;
        outcome.assert_handed_over(OPEN, Handover::OpenNetwork, &packet);
        Ok(())
    })
}

#[test]
fn subnets_of_one_network_reach_each_other_without_masquerade() -> Result<()> {
    with_modes(|rig| {
        for mode in [Mode::Nat, Mode::Route, Mode::Isolated] {
            rig.set_network(NETWORK, |network| {
                (network.mode, network.mode_ipv6) = (mode as u8, mode as u8);
            })?;
            for (from, to) in
                [("192.168.122.10:1", "10.1.0.5:2"), ("[fd00:122::10]:1", "[fd00:a1::5]:2")]
            {
                let packet = udp(from, to);
                let bytes = packet.frame().len() as u64;
                let moved = counted(&[
                    ("1 outbound packets", 1),
                    ("1 outbound bytes", bytes),
                    ("1 inbound packets", 1),
                    ("1 inbound bytes", bytes),
                ]);
                let expected = packet.clone().ttl(63).frame();
                let outcome = rig.from_guest(&packet)?;
                outcome.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &moved);
                rig.to_bridge(Origin::Interface("virbr0"), &packet)?.assert_passed(&packet);
            }
        }
        Ok(())
    })
}

/// `BPF_PROG_TEST_RUN` takes bytes 12 and 13 for the protocol, and the first for a MAC address, which
/// shall not be another host's.
#[test]
fn uplinks_without_link_layer_headers_leave_them_to_the_stack() -> Result<()> {
    with_modes(|rig| {
        let mut six = udp("[2001:db8:86dd::10]:80", "[2001:db8:5::10]:20000");
        six.dscp = 4;
        for packet in [udp("8.0.9.9:80", "172.16.5.10:20000"), six] {
            let eth0 = Origin::Interface("eth0");
            let outcome = rig.at(program::UPLINK_INGRESS_RAW, "eth0", eth0, &packet.ip())?;
            let moved = counted(&[("5 handover raw-link", 1)]);
            outcome.assert(Verdict::Pass, &packet.ip(), 0, &moved);
        }
        Ok(())
    })
}
