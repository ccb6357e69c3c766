//! What the verifier has to do to accept the programs.

use anyhow::{Context as _, Result};
use vnet_common::names::program;
use vnet_tests::programs::*;

/// Instructions that the verifier may process for each program; the kernel's limit is a million
/// (`BPF_COMPLEXITY_LIMIT_INSNS`, `include/linux/bpf.h`).
const BOUNDS: [(&str, u32); 9] = [
    (program::BRIDGE_INGRESS, 170_000),
    (program::BRIDGE_EGRESS, 110_000),
    (program::UPLINK_INGRESS, 120_000),
    (program::UPLINK_EGRESS, 100_000),
    (program::UPLINK_INGRESS_RAW, 100_000),
    (program::UPLINK_EGRESS_RAW, 100_000),
    (program::PORT_GUARD, 40_000),
    (program::SWEEP, 20_000),
    (program::PORT_SHORTCUT, 20_000),
];

/// The same for the XDP programs.
const XDP_BOUNDS: [(&str, u32); 2] = [(program::UPLINK_XDP, 20_000), (program::BRIDGED_XDP, 5_000)];

fn within_bounds(rig: &mut Rig, factor: u32) -> Result<()> {
    let mut above = Vec::new();
    for (name, bound) in BOUNDS {
        let info = rig.program(name)?.info()?;
        let count = info.verified_instruction_count().context("the kernel does not tell")?;
        println!("{name}: {count} instructions verified");
        if count > factor * bound {
            above.push(format!("{name}: {count} instructions, at most {bound} are allowed"));
        }
    }
    for (name, bound) in XDP_BOUNDS {
        let count = rig.verified_xdp(name)?;
        println!("{name}: {count} instructions verified");
        if count > bound {
            above.push(format!("{name}: {count} instructions, at most {bound} are allowed"));
        }
    }
    assert!(above.is_empty(), "{}", above.join("\n"));
    Ok(())
}

#[test]
fn verifier_accepts_every_program_within_bounds() -> Result<()> {
    assert_eq!(BOUNDS.map(|(name, _)| name), program::ALL);
    assert_eq!(XDP_BOUNDS.map(|(name, _)| name), program::XDP);
    with_rig(|rig| within_bounds(rig, 1))
}

#[test]
fn verifier_accepts_every_program_with_logging_on() -> Result<()> {
    with_rig(|rig| {
        rig.reload_with_logging()?;
        within_bounds(rig, 3)
    })
}
