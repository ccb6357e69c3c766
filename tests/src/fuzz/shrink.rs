//! The shortest sequence that still shows a difference.

use anyhow::Result;

use super::pair::{Difference, Pair};
use super::step::Step;

/// Runs that one difference may cost.
const RUNS: usize = 3000;

/// Leaves steps out of a sequence as long as there is a difference, and gives both.
pub(super) fn shrink(
    pair: &mut Pair<'_>,
    steps: &[Step],
) -> Result<Option<(Vec<Step>, Difference)>> {
    let Some(mut best) = first(pair, steps)? else { return Ok(None) };
    let mut runs = 0;
    let mut size = best.0.len() / 2;
    while size > 0 && runs < RUNS {
        let mut place = 0;
        while place < best.0.len() && runs < RUNS {
            let end = (place + size).min(best.0.len());
            let shorter = [&best.0[..place], &best.0[end..]].concat();
            runs += 1;
            match first(pair, &shorter)? {
                Some(found) => best = found,
                None => place = end,
            }
        }
        size /= 2;
    }
    Ok(Some(best))
}

/// The shortest beginning of a sequence at whose end there is a difference.
fn first(pair: &mut Pair<'_>, steps: &[Step]) -> Result<Option<(Vec<Step>, Difference)>> {
    if steps.is_empty() {
        return Ok(None);
    }
    let Some(mut found) = pair.run(steps, usize::MAX)? else { return Ok(None) };
    // A difference of counters or tables was there before it was looked for.
    let (mut without, mut with) = (0, found.index + 1);
    while found.looked_for && with - without > 1 {
        let middle = usize::midpoint(without, with);
        match pair.run(&steps[..middle], usize::MAX)? {
            Some(earlier) => {
                with = earlier.index + 1;
                found = earlier;
            }
            None => without = middle,
        }
    }
    Ok(Some((steps[..=found.index].to_vec(), found)))
}
