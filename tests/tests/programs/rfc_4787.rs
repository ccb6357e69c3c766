//! RFC 4787 (UDP), where no other test shows what `docs/nat.md` says.

use anyhow::Result;
use vnet_common::{
    flow::{Direction::*, Session},
    port::PortRange,
    reason::Handover,
    timeout::NANOSECONDS,
};
use vnet_tests::programs::*;

/// Winds back the times of a flow of the rig, whose idle time of UDP is 3 seconds.
fn age(rig: &mut Rig, index: u32, seconds: u64) -> Result<()> {
    rig.set_session(index, |session: &mut Session| {
        session.last_outbound -= seconds * NANOSECONDS;
        session.last_inbound = session.last_inbound.saturating_sub(seconds * NANOSECONDS);
        session.since -= seconds * NANOSECONDS;
    })
}

#[test]
fn guests_own_packets_keep_a_udp_flow_and_answers_do_not() -> Result<()> {
    with_rig(|rig| {
        let query = udp("192.168.122.10:20000", "192.0.2.10:53");
        let answer = udp("192.0.2.10:53", "198.51.100.1:20000");
        rig.from_guest(&query)?;
        for _ in 0..4 {
            age(rig, 0, 2)?;
            assert_eq!(rig.from_guest(&query)?.verdict, Verdict::Redirect);
            rig.sweep()?;
            assert_eq!(rig.tables()?.live().count(), 1);
        }
        for (seconds, live) in [(2, 1), (1, 0)] {
            age(rig, 0, seconds)?;
            rig.from_outside(&answer)?;
            rig.sweep()?;
            assert_eq!(rig.tables()?.live().count(), live);
        }
        Ok(())
    })
}

#[test]
fn addresses_in_a_payload_are_left_as_they_are() -> Result<()> {
    with_rig(|rig| {
        let [sip, ftp] = [
            &b"INVITE sip:b@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.122.10:5060\r\n\r\n"[..],
            b"PORT 192,168,122,10,78,32\r\n",
        ];
        let invite = udp("192.168.122.10:5060", "192.0.2.10:5060").payload(sip);
        let translated = invite.clone().from("198.51.100.1:5060").ttl(63);
        rig.from_guest(&invite)?.assert_redirected(NETWORK, Outbound, &translated);
        let syn = tcp("192.168.122.10:20000", "192.0.2.10:21", vnet_common::tcp::flags::SYN);
        rig.from_guest(&syn)?;
        let command = tcp("192.168.122.10:20000", "192.0.2.10:21", vnet_common::tcp::flags::ACK);
        let command = command.payload(ftp);
        let translated = command.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&command)?.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn endpoint_has_its_port_and_its_filter_also_when_no_other_port_is_left() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |n| n.ports = PortRange { first: 5000, last: 5000 })?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_guest(&udp("192.168.122.11:20000", "192.0.2.10:53"))?;
        for remote in ["192.0.2.10:54", "192.0.2.11:53", "192.0.2.12:9"] {
            let stranger = udp(remote, "198.51.100.1:5000");
            rig.from_outside(&stranger)?.assert_handed_over(0, Handover::NoFlow, &stranger);
            let query = udp("192.168.122.10:20000", remote);
            let translated = query.clone().from("198.51.100.1:5000").ttl(63);
            rig.from_guest(&query)?.assert_redirected(NETWORK, Outbound, &translated);
        }
        Ok(())
    })
}
