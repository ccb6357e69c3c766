//! ICMP errors about packets of any protocol: the quote is translated, and the flow is left as it is
//! (RFC 5508, REQ-3 to REQ-6).

use anyhow::{Context as _, Result};
use vnet_common::{
    family::Family,
    flow::{Direction::*, protocol},
    reason::{DropReason, Handover},
    tcp::flags::*,
};
use vnet_tests::programs::{modes::*, *};

/// A packet of each kind from the guest's port, and its like from the remote to an endpoint.
type Kind = (fn(&str, &str) -> Packet, u16);

/// Kinds with ports, and the guest's port: one that is not kept where it is translated.
const WITH_PORTS: [Kind; 5] =
    [(syn, 40000), (udp, 40000), (udp_lite, 40000), (dccp, 40000), (sctp, 40000)];
const WITHOUT_PORTS: [u8; 3] = [protocol::GRE, protocol::ESP, 253];

fn syn(from: &str, to: &str) -> Packet {
    tcp(from, to, SYN)
}

/// What the guest sent and the outside saw, and what the outside sent and the guest got.
struct Seen {
    sent: Packet,
    on_the_wire: Packet,
    reply: Packet,
    received: Packet,
}

/// Opens a flow of each kind.
fn flows(rig: &mut Rig, ends: &Ends) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    let remote = port_of(ends.remote, 80);
    for (make, port) in WITH_PORTS {
        let guest = port_of(ends.guest, port);
        let sent = make(&guest, &remote);
        rig.from_guest(&sent)?;
        let newest = rig.tables()?.sessions.into_values().next_back();
        let port = newest.context("no flow was opened")?.external_port.to_host();
        let external = port_of(ends.external, port);
        let (sent, reply) = (sent.ttl(60), make(&remote, &external).ttl(60));
        let (on_the_wire, received) = (sent.clone().from(&external), reply.clone().to(&guest));
        all.push(Seen { sent, on_the_wire, reply, received });
    }
    for number in WITHOUT_PORTS {
        let sent = raw(ends.guest, ends.remote, number);
        rig.from_guest(&sent)?;
        let (sent, reply) = (sent.ttl(60), raw(ends.remote, ends.external, number).ttl(60));
        let on_the_wire = sent.clone().from(ends.external);
        let received = reply.clone().to(ends.guest);
        all.push(Seen { sent, on_the_wire, reply, received });
    }
    Ok(all)
}

/// Unreachable and time exceeded, and how many bytes of the packet they quote at least.
fn kinds(ends: &Ends) -> ([(u8, u8); 2], usize) {
    match ends.family {
        Family::Ipv4 => ([(3, 2), (11, 0)], 28),
        Family::Ipv6 => ([(1, 4), (3, 0)], 48),
    }
}

#[test]
fn errors_about_every_protocol_are_translated_in_both_directions() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let (kinds, least) = kinds(&ends);
            for Seen { sent, on_the_wire, reply, received } in flows(rig, &ends)? {
                for (kind, quoted) in
                    kinds.into_iter().flat_map(|kind| [(kind, least), (kind, 576)])
                {
                    let error = icmp_error(ends.router, ends.external, kind, &on_the_wire, quoted);
                    let told = icmp_error(ends.router, ends.guest, kind, &sent, quoted).ttl(63);
                    rig.from_outside(&error)?.assert_redirected(NETWORK, Inbound, &told);

                    let error = icmp_error(ends.guest, ends.remote, kind, &received, quoted);
                    let told = icmp_error(ends.external, ends.remote, kind, &reply, quoted);
                    let outcome = rig.from_guest(&error)?;
                    outcome.assert_redirected(NETWORK, Outbound, &told.clone().ttl(63));
                    let outcome = rig.to_outside(Origin::Interface("virbr0"), &error)?;
                    outcome.assert_translated(NETWORK, Outbound, &told);
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn errors_neither_refresh_nor_end_a_flow() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let seen = flows(rig, &ends)?;
            let indices: Vec<u32> = rig.tables()?.live().map(|(index, _)| index).collect();
            for index in indices {
                rig.set_session(index, |session| session.last_outbound -= 1_000_000_000)?;
            }
            let before = rig.tables()?.sessions;
            let (kinds, _) = kinds(&ends);
            for Seen { on_the_wire, received, .. } in seen {
                for kind in kinds {
                    let error = icmp_error(ends.router, ends.external, kind, &on_the_wire, 576);
                    assert_eq!(rig.from_outside(&error)?.verdict, Verdict::Redirect);
                    let error = icmp_error(ends.guest, ends.remote, kind, &received, 576);
                    assert_eq!(rig.from_guest(&error)?.verdict, Verdict::Redirect);
                }
            }
            assert_eq!(rig.tables()?.sessions, before);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn error_about_a_packet_with_options_is_translated() -> Result<()> {
    with_rig(|rig| {
        let sent = udp("192.168.122.10:40000", "192.0.2.10:53").options(&[0x94, 4, 0, 0]).ttl(63);
        rig.to_outside(Origin::Interface("virbr0"), &sent)?;
        let port = rig.tables()?.only().external_port.to_host();
        let on_the_wire = sent.clone().from(&format!("{EXTERNAL}:{port}"));
        let error = icmp_error(REMOTE, EXTERNAL, (3, 3), &on_the_wire, 32);
        let told = icmp_error(REMOTE, GUEST, (3, 3), &sent, 32).ttl(63);
        rig.from_outside(&error)?.assert_redirected(NETWORK, Inbound, &told);
        Ok(())
    })
}

#[test]
fn errors_about_later_fragments_are_for_nobody() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let (kinds, _) = kinds(&ends);
            for Seen { on_the_wire, received, .. } in flows(rig, &ends)? {
                let later = |packet: &Packet| {
                    packet.clone().payload(&[7; 1600]).fragments(1440)[1][14..].to_vec()
                };
                let error = icmp_error(ends.router, ends.external, kinds[0], &on_the_wire, 0);
                let error = error.payload(&later(&on_the_wire));
                rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
                let error = icmp_error(ends.guest, ends.remote, kinds[0], &received, 0);
                let error = error.payload(&later(&received));
                rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
            }
            Ok(())
        })?;
    }
    Ok(())
}
