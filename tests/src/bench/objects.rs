//! BPF programs that only the benchmarks use.

use std::{env, fs};

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader};

/// Loads one of the objects that `cargo xtask build` leaves beside the one that is embedded.
pub(super) fn load(name: &str) -> Result<Ebpf> {
    let program = env::current_exe()?;
    let target = program.ancestors().nth(2).context("no target directory")?;
    let path = target.join("bpf").join(name).with_extension("o");
    let object = fs::read(&path)
        .with_context(|| format!("cannot read {}: cargo xtask build", path.display()))?;
    Ok(EbpfLoader::new().load(&object)?)
}
