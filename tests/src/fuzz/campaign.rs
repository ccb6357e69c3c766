//! Many sequences from one seed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::pair::{Difference, Pair, with_pair};
use super::rng::Rng;
use super::step::Step;
use super::{generate, report, shrink};

/// Steps of one sequence.
const STEPS: usize = 1000;

/// How often a sequence is run again that has taken so long that flows may have expired in between: the
/// clock is not in the sequence.
const STALLS: u32 = 10;

/// When a campaign ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so many packets.
    Packets(u64),
    /// After that time.
    Elapsed(Duration),
}

/// A campaign.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// What repeats it.
    pub seed: u64,
    /// Its end.
    pub until: Until,
    /// Differences after which it ends earlier.
    pub differences: usize,
}

impl Campaign {
    /// Runs it; the first difference is an error that says everything about it.
    pub fn run(self) -> Result<()> {
        with_pair(|pair| {
            println!("seed {:#x} ({})", self.seed, self.seed);
            let started = Instant::now();
            let (mut found_all, mut signatures) = (Vec::new(), Vec::new());
            let mut seeds = Rng::new(self.seed);
            let is_over = |packets: u64| match self.until {
                Until::Packets(wanted) => packets >= wanted,
                Until::Elapsed(time) => started.elapsed() >= time,
            };
            while !is_over(pair.packets) && found_all.len() < self.differences {
                let seed = seeds.next();
                let steps = generate::steps(seed, STEPS);
                if let Some(first) = run_without_a_stall(pair, &steps)? {
                    // The programs choose ports at random: it may not happen again.
                    let (steps, found) = shrink::shrink(pair, &steps)?
                        .unwrap_or_else(|| (steps[..=first.index].to_vec(), first));
                    let signature = found.signature();
                    if !signatures.contains(&signature) {
                        signatures.push(signature);
                        found_all.push(report::difference(self.seed, &steps, &found));
                    }
                }
            }
            if !found_all.is_empty() {
                bail!("{}", found_all.join("\n"));
            }
            println!("{} packets in {:.1} s", pair.packets, started.elapsed().as_secs_f64());
            // What was not counted was not tried.
            let counted = pair.counted.iter().map(|(name, count)| format!("{name} {count}"));
            println!("{}", counted.collect::<Vec<_>>().join(", "));
            Ok(())
        })
    }
}

/// Runs a sequence; again if it differs and its time would let something expire.
fn run_without_a_stall(pair: &mut Pair<'_>, steps: &[Step]) -> Result<Option<Difference>> {
    for _ in 0..STALLS {
        let started = Instant::now();
        let found = pair.run(steps, usize::MAX)?;
        if found.is_none() || started.elapsed() < pair.unit() {
            return Ok(found);
        }
        println!("{} steps took {:.1} s: again", steps.len(), started.elapsed().as_secs_f64());
    }
    bail!("{STALLS} times a sequence took longer than the shortest timeout, {:?}", pair.unit());
}

/// Runs a sequence, one step a line of JSON, and fails if there is a difference.
pub fn replay(lines: &str) -> Result<()> {
    let steps: Vec<Step> = lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    with_pair(|pair| match pair.run(&steps, 1)? {
        Some(found) => bail!("{}", report::difference(0, &steps, &found)),
        None => Ok(()),
    })
}
