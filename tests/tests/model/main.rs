//! The real programs against the model of them.

use anyhow::Result;
use vnet_tests::fuzz::*;

#[test]
fn programs_and_model_agree_on_a_million_packets() -> Result<()> {
    let packets = std::env::var("N").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let seed = std::env::var("S").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    Campaign { seed, until: Until::Packets(packets) }.run()
}
