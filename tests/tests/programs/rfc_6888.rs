//! RFC 6888 (carrier-grade NAT), where no other test shows what `docs/nat.md` says.

use std::collections::BTreeSet;

use anyhow::Result;
use vnet_common::{port::PortRange, timeout::Timeouts};
use vnet_tests::programs::*;

#[test]
fn port_rests_for_120_seconds_unless_it_is_said_otherwise() {
    assert!(Timeouts::default().port_hold_down >= 120);
}

#[test]
fn every_port_of_a_range_is_given_out() -> Result<()> {
    with_rig(|rig| {
        let range = PortRange { first: 5000, last: 5031 };
        rig.set_network(NETWORK, |network| network.ports = range)?;
        let mut taken = BTreeSet::new();
        for port in 20000..20032 {
            let outcome = rig.from_guest(&udp(&format!("{GUEST}:{port}"), "192.0.2.10:53"))?;
            assert_eq!(outcome.verdict, Verdict::Redirect, "{} ports are taken", taken.len());
            taken.insert(rig.tables()?.external_port_of(port));
        }
        assert!(taken.into_iter().eq(5000..=5031));
        Ok(())
    })
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
