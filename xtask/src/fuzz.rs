//! `fuzz`: the real programs against the model of them, for as long as one likes.

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    process::CommandExt as _,
    sudo::{self, Elevation},
    test,
    workspace::Workspace,
};

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The NAT: packets to the programs and to the model
    Nat,
}

pub fn run(workspace: &Workspace, minutes: u64, seed: Option<u64>) -> Result<()> {
    let mut command = workspace.cargo();
    match sudo::silent() {
        Elevation::None => {}
        Elevation::Sudo { .. } => {
            command.arg("--config").arg(test::runner_setting()?);
        }
        Elevation::Impossible => bail!("the programs need root rights: sudo -v, then repeat"),
    }
    command
        .args(["test", "--package", "vnet-tests", "--test", "model", "--"])
        .args(["--ignored", "--nocapture", "programs_and_model_agree_for_minutes"])
        .env("VNET_REQUIRE_ROOT", "1")
        .env("VNET_FUZZ_MINUTES", minutes.to_string());
    if let Some(seed) = seed {
        command.env("VNET_FUZZ_SEED", seed.to_string());
    }
    command.check()
}
