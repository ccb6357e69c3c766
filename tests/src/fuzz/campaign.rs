//! Many sequences from one seed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::pair::with_pair;
use super::rng::Rng;
use super::step::Step;
use super::{generate, report, shrink};

/// Steps of one sequence.
const STEPS: usize = 1000;

/// Differences of a campaign that may not happen again when the same steps are taken.
const UNREPEATED: usize = 2;

/// How often a difference has to happen again: the programs choose ports at random, and slots rest by
/// the clock.
const REPEATS: u32 = 2;

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
            let mut unrepeated = Vec::new();
            let mut seeds = Rng::new(self.seed);
            let is_over = |packets: u64| match self.until {
                Until::Packets(wanted) => packets >= wanted,
                Until::Elapsed(time) => started.elapsed() >= time,
            };
            while !is_over(pair.packets) && found_all.len() < self.differences {
                let seed = seeds.next();
                let steps = generate::steps(seed, STEPS);
                if let Some(first) = pair.run(&steps, usize::MAX)? {
                    let mut repeats = true;
                    for _ in 0..REPEATS {
                        repeats = repeats && pair.run(&steps, usize::MAX)?.is_some();
                    }
                    let shrunk = if repeats { shrink::shrink(pair, &steps)? } else { None };
                    let Some((steps, found)) = shrunk else {
                        // The clock is not in the sequence: a stall lets flows expire. More than a few
                        // are no accident.
                        let steps = &steps[..=first.index];
                        let report = report::difference(self.seed, steps, &first);
                        println!("seen once, and not again with the same steps:\n{report}");
                        unrepeated.push(report);
                        if unrepeated.len() > UNREPEATED {
                            bail!("{}", unrepeated.join("\n"));
                        }
                        continue;
                    };
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
