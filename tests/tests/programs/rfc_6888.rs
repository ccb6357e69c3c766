//! RFC 6888 (carrier-grade NAT), where no other test shows what `docs/nat.md` says.

use anyhow::Result;
use vnet_common::timeout::Timeouts;
use vnet_tests::programs::*;

#[test]
fn port_rests_for_120_seconds_unless_it_is_said_otherwise() {
    assert!(Timeouts::default().port_hold_down >= 120);
}

#[test]
fn ports_that_cannot_be_kept_do_not_follow_each_other() -> Result<()> {
    const FLOWS: u16 = 64;
    with_rig(|rig| {
        let mut ports = Vec::new();
        for inside in 40000..40000 + FLOWS {
            rig.from_guest(&udp(&format!("{GUEST}:{inside}"), "192.0.2.10:53"))?;
            ports.push(rig.tables()?.external_port_of(inside));
        }
        // Of 36 000 ports 64 random ones lie anywhere; all of this fails once in more than 10^9 runs.
        let close = ports.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 16).count();
        assert!(close <= 6, "{ports:?}");
        assert!(ports.iter().any(|port| *port < 16384), "{ports:?}");
        assert!(ports.iter().any(|port| (16384..32768).contains(port)), "{ports:?}");
        Ok(())
    })
}
