//! The benchmarks: what `cargo xtask bench` runs.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum as _};
use vnet_tests::bench::{Benchmark, Report};

/// Measures vnet on this machine, in network namespaces of its own.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything if none is named
    #[arg(value_name = "NAME")]
    names: Vec<Benchmark>,
    /// How often each figure is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and BPF programs need root rights");
    let vnet = env::current_exe()?.with_file_name("vnet");
    ensure!(vnet.is_file(), "{} is not there; build it: cargo xtask build", vnet.display());
    let vnet = vnet.to_str().context("the path of `vnet` is not UTF-8")?;
    let names = match arguments.names.as_slice() {
        [] => Benchmark::value_variants(),
        names => names,
    };
    let mut figures = Vec::new();
    for name in names {
        figures.extend(name.run(vnet, arguments.rounds.into())?);
    }
    let report = Report::of(figures);
    print!("{report}");
    if let Some(path) = arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
