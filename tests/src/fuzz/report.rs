//! A difference in words, and as a regression test.

use std::fmt::Write as _;

use super::pair::Difference;
use super::step::Step;

/// Steps as lines of JSON, which [`super::replay`] reads.
pub(super) fn lines(steps: &[Step]) -> String {
    let line = |step: &Step| serde_json::to_string(step).expect("steps are plain data");
    steps.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What was found with a seed.
pub(super) fn difference(seed: u64, steps: &[Step], found: &Difference) -> String {
    let mut text = format!("programs and model differ; seed {seed:#x}, step {}:\n", found.index);
    let _ = writeln!(text, "{}", found.what);
    let _ = writeln!(
        text,
        "as a regression test:\n\n#[test]\nfn name_it_as_a_fact() -> Result<()> {{\n    replay(\n        r#\"\n{}\n\"#,\n    )\n}}",
        lines(steps)
    );
    text
}
