//! The real programs against the model of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use vnet_tests::fuzz::*;

mod regressions;

/// What the same packets come from every time.
const SEED: u64 = 0x766e_6574;

#[test]
fn programs_and_model_agree_on_a_million_packets() -> Result<()> {
    // Other seeds are for `cargo xtask fuzz`: here the same packets have to pass every time.
    Campaign { seed: SEED, until: Until::Packets(1_000_000), differences: 3 }.run().map(drop)
}

/// As long as one likes: `cargo xtask fuzz nat --minutes N [--seed S]`.
#[test]
#[ignore = "runs for VNET_FUZZ_MINUTES"]
fn programs_and_model_agree_for_minutes() -> Result<()> {
    let number = |name: &str| {
        let value = std::env::var(name).ok();
        value.map(|text| text.parse::<u64>().with_context(|| format!("{name}={text}"))).transpose()
    };
    let minutes = number("VNET_FUZZ_MINUTES")?.unwrap_or(1);
    let seed = number("VNET_FUZZ_SEED")?.map_or_else(seed_of_the_clock, Ok)?;
    let until = Until::Elapsed(Duration::from_secs(60 * minutes));
    Campaign { seed, until, differences: 10 }.run()
}

fn seed_of_the_clock() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
