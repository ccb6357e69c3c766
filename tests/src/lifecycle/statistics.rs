//! How often programs run.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::libc;
use serde_json::Value;

use super::{Scene, foreign::bpf_call};

const BPF_ENABLE_STATS: libc::c_int = 32;
const BPF_STATS_RUN_TIME: u64 = 0;

/// The kernel counts as long as this lives.
#[derive(Debug)]
pub struct Statistics {
    _enabled: OwnedFd,
}

impl Statistics {
    /// Begins to count.
    pub fn begin() -> Result<Self> {
        Ok(Self { _enabled: bpf_call(BPF_ENABLE_STATS, &[BPF_STATS_RUN_TIME])? })
    }

    /// How often a program has run while anybody counted, by its number.
    pub fn runs(&self, scene: &Scene, program: u64) -> Result<u64> {
        let number = program.to_string();
        let shown = scene.lab.host.run(&["bpftool", "-j", "prog", "show", "id", &number])?;
        let shown: Value = serde_json::from_str(&shown)?;
        // Not told while it is 0.
        Ok(shown["run_cnt"].as_u64().unwrap_or(0))
    }

    /// The same of a program of the instance at its only hook.
    pub fn runs_of(&self, scene: &Scene, name: &str) -> Result<u64> {
        let state = scene.state()?;
        let lists = [&state["hooks"], &state["shortcut"]["xdp"]];
        let hooks = lists.into_iter().filter_map(Value::as_array).flatten();
        let hook = hooks.into_iter().find(|hook| hook["program"] == name);
        let program = hook.and_then(|hook| hook["program_id"].as_u64());
        self.runs(scene, program.with_context(|| format!("{name}: {state}"))?)
    }
}
