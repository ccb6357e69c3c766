//! Fragmented datagrams.

use anyhow::Result;
use vnet_common::{
    flow::Direction::{self, *},
    names::{FORWARDED_MARK, program},
};
use vnet_tests::programs::*;

fn big(from: &str, to: &str) -> Packet {
    let payload: Vec<u8> = (0..2000_u32).map(|byte| byte as u8).collect();
    udp(from, to).payload(&payload)
}

fn traffic(direction: Direction, bytes: usize) -> Counted {
    let word = if direction == Outbound { "outbound" } else { "inbound" };
    counted(&[(&format!("1 {word} packets"), 1), (&format!("1 {word} bytes"), bytes as u64)])
}

#[test]
fn fragments_follow_their_first_in_both_directions() -> Result<()> {
    with_rig(|rig| {
        let query = big("192.168.122.10:40000", "192.0.2.10:53");
        let mut port = 0;
        for (place, fragment) in query.fragments(800).iter().enumerate() {
            let outcome = rig.frame_from_guest(fragment)?;
            port = rig.tables()?.only().external_port.to_host();
            let translated = query.clone().from(&format!("{EXTERNAL}:{port}")).ttl(63);
            let expected = &translated.fragments(800)[place];
            let counted = traffic(Outbound, fragment.len());
            outcome.assert(Verdict::Redirect, expected, FORWARDED_MARK, &counted);
        }
        let reply = big("192.0.2.10:53", &format!("{EXTERNAL}:{port}")).identification(9);
        let back = reply.clone().to("192.168.122.10:40000").ttl(63);
        for (fragment, expected) in reply.fragments(800).iter().zip(back.fragments(800)) {
            let outcome = rig.frame_from_outside(fragment)?;
            let counted = traffic(Inbound, fragment.len());
            outcome.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &counted);
        }
        assert_eq!(rig.tables()?.only().outbound.packets, 3);
        Ok(())
    })
}

#[test]
fn fragments_of_a_ping_follow_their_first() -> Result<()> {
    with_rig(|rig| {
        let ping = echo_request("192.168.122.10:77", REMOTE).payload(&[5; 2000]);
        let translated = ping.clone().from(EXTERNAL).ttl(63);
        for (fragment, expected) in ping.fragments(1480).iter().zip(translated.fragments(1480)) {
            let outcome = rig.frame_from_guest(fragment)?;
            let counted = traffic(Outbound, fragment.len());
            outcome.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &counted);
        }
        Ok(())
    })
}

#[test]
fn fragments_that_the_stack_made_are_translated_at_the_uplink() -> Result<()> {
    with_rig(|rig| {
        let query = big("192.168.122.10:20000", "192.0.2.10:53").ttl(63);
        let translated = query.clone().from(EXTERNAL);
        for (fragment, expected) in query.fragments(1480).iter().zip(translated.fragments(1480)) {
            let virbr0 = Origin::Interface("virbr0");
            let outcome = rig.at(program::UPLINK_EGRESS, "eth0", virbr0, fragment)?;
            let counted = traffic(Outbound, fragment.len());
            outcome.assert(Verdict::Pass, &expected, 0, &counted);
        }
        assert_eq!(rig.tables()?.only().outbound.packets, 2);
        Ok(())
    })
}
