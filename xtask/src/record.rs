//! `test --record`: the counts that `vm_verifier` has told, in the file that it compares with.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

/// Set for the tests, they tell counts in lines that begin with [`PREFIX`].
pub const VARIABLE: &str = "VNET_TEST_RECORD";
const PREFIX: &str = "recorded: ";

const FILE: &str = "tests/verifier/instructions.txt";
const HEADER: &str = "# What the verifier has to do, by kernel and program: `cargo xtask test [--vm KERNEL...] --record \
                      vm_verifier`";

/// What was told, if this line is of that.
pub fn told(line: &str) -> Option<&str> {
    // The harness may have begun a line.
    line.split_once(PREFIX).map(|(_, told)| told.trim_end())
}

/// Replaces what the file says of the kernels that were told of.
pub fn write(workspace: &Workspace, told: &[String]) -> Result<()> {
    let path = workspace.root.join(FILE);
    let before = fs::read_to_string(&path).context("cannot read what is recorded")?;
    fs::write(&path, merged(&before, told)?).context("cannot write what is recorded")?;
    println!("xtask: recorded in {FILE}");
    Ok(())
}

fn merged(before: &str, told: &[String]) -> Result<String> {
    let Some(compiler) = told.iter().find(|line| line.starts_with("compiler ")) else {
        bail!("no counts were told: is `vm_verifier` among the tests?");
    };
    let is_same_compiler = before.lines().any(|line| line == compiler);
    let kernel = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let new: BTreeSet<_> = told.iter().map(|line| kernel(line)).collect();
    let kept = before.lines().filter(|line| {
        is_same_compiler
            && line.split(' ').count() == 3
            && !line.starts_with('#')
            && !new.contains(&kernel(line))
    });
    let all = kept.chain(told.iter().map(String::as_str));
    let mut counts: Vec<_> = all.filter(|line| !line.starts_with("compiler ")).collect();
    let numbers = |line: &str| -> Vec<u32> {
        kernel(line).split('.').filter_map(|part| part.parse().ok()).collect()
    };
    counts.sort_by_key(|line| (numbers(line), line.to_owned()));
    counts.dedup();
    Ok([&[HEADER, compiler][..], &counts].concat().join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn kernels_that_were_not_run_keep_their_counts() {
        let before = "# old\ncompiler 1.96.0\n6.1 sweep 7\n6.1 gone 3\n6.12 sweep 5\n";
        let told = lines(&["compiler 1.96.0", "6.1 sweep 8"]);
        let after = merged(before, &told).unwrap();
        assert_eq!(after, format!("{HEADER}\ncompiler 1.96.0\n6.1 sweep 8\n6.12 sweep 5\n"));
        let told = lines(&["compiler 1.97.0", "6.1 sweep 8"]);
        let after = merged(before, &told).unwrap();
        assert_eq!(after, format!("{HEADER}\ncompiler 1.97.0\n6.1 sweep 8\n"));
        assert!(merged(before, &[]).is_err());
    }

    #[test]
    fn lines_are_found_behind_what_the_harness_prints() {
        assert_eq!(told("test every ... recorded: 6.1 sweep 8\n"), Some("6.1 sweep 8"));
        assert_eq!(told("test result: ok"), None);
    }
}
