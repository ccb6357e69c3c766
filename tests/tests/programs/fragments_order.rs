//! Fragments that a guest sends in any order (RFC 4787, REQ-14).

use anyhow::Result;
use vnet_common::{
    names::FORWARDED_MARK,
    reason::{DropReason, Handover},
};
use vnet_tests::programs::{modes::*, *};

pub const SIZE: usize = 1440;
/// Every order of three fragments but the one that they have.
pub const ORDERS: [[usize; 3]; 5] = [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// A datagram of three fragments.
pub fn big(from: &str, to: &str) -> Packet {
    let payload: Vec<u8> = (0..4000_u32).map(|byte| (byte * 7) as u8).collect();
    udp(from, to).payload(&payload)
}

fn traffic(bytes: usize) -> Counted {
    counted(&[("1 outbound packets", 1), ("1 outbound bytes", bytes as u64)])
}

#[test]
fn fragments_in_any_order_leave_with_the_guests_external_address() -> Result<()> {
    for ends in Ends::BOTH {
        for order in ORDERS {
            with_modes(|rig| {
                let (guest, remote) = (port_of(ends.guest, 20000), port_of(ends.remote, 53));
                let query = big(&guest, &remote);
                let sent = query.fragments(SIZE);
                let translated = query.clone().from(ends.external).ttl(63).fragments(SIZE);
                let mut of_the_flow = 0;
                for place in order {
                    let outcome = rig.frame_from_guest(&sent[place])?;
                    let moved = traffic(sent[place].len());
                    outcome.assert(Verdict::Redirect, &translated[place], FORWARDED_MARK, &moved);
                    of_the_flow += u64::from(rig.tables()?.live().count() != 0);
                }
                // What comes before the first one has no flow.
                assert_eq!(rig.tables()?.only().outbound.packets, of_the_flow);

                let query = query.ttl(63).identification(99);
                let sent = query.fragments(SIZE);
                let translated = query.from(ends.external).fragments(SIZE);
                for place in order {
                    let virbr0 = Origin::Interface("virbr0");
                    let program = vnet_common::names::program::UPLINK_EGRESS;
                    let outcome = rig.at(program, "eth0", virbr0, &sent[place])?;
                    let moved = traffic(sent[place].len());
                    outcome.assert(Verdict::Pass, &translated[place], 0, &moved);
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn later_fragments_alone_open_no_flow() -> Result<()> {
    with_modes(|rig| {
        for ends in Ends::BOTH {
            let ping = echo_request(&port_of(ends.guest, 77), ends.remote).payload(&[5; 2000]);
            for packet in [big(&port_of(ends.guest, 1), &port_of(ends.remote, 2)), ping] {
                let expected = packet.clone().from(ends.external).ttl(63).fragments(SIZE);
                let outcome = rig.frame_from_guest(&packet.fragments(SIZE)[1])?;
                let moved = traffic(expected[1].len());
                outcome.assert(Verdict::Redirect, &expected[1], FORWARDED_MARK, &moved);
            }
        }
        let tables = rig.tables()?;
        assert!(tables.sessions.is_empty() && tables.guests.is_empty());
        Ok(())
    })
}

#[test]
fn later_fragments_alone_are_judged_like_any_packet() -> Result<()> {
    with_modes(|rig| {
        for ends in Ends::BOTH {
            let forbidden = network_of(ISOLATED).address(ends.family, 10);
            let later = |from: &str, to: &str| {
                big(&port_of(from, 1), &port_of(to, 2)).fragments(SIZE)[1].clone()
            };
            let outcome = rig.frame_from_guest(&later(ends.guest, &forbidden))?;
            outcome.assert_refused(NETWORK, DropReason::PolicyRejected);
            let outcome = rig.frame_from_guest(&later(ends.remote, ends.other_remote))?;
            outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
            let expiring = big(&port_of(ends.guest, 1), &port_of(ends.remote, 2)).ttl(1);
            let fragment = &expiring.fragments(SIZE)[1];
            let outcome = rig.frame_from_guest(fragment)?;
            let name = format!("1 handover {}", Handover::TtlExpiring.id());
            outcome.assert(Verdict::Pass, fragment, 0, &counted(&[(&name, 1)]));
            let virbr0 = Origin::Interface("virbr0");
            let program = vnet_common::names::program::UPLINK_EGRESS;
            let outcome =
                rig.at(program, "eth0", virbr0, &later(ends.remote, ends.other_remote))?;
            outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
        }
        Ok(())
    })
}
