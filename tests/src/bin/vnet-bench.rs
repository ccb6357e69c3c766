//! The benchmarks: what `cargo xtask bench` runs.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use vnet_tests::bench::{Benchmark, Machine, Report, Settings, draw, renew};

/// Measures vnet on this machine, in network namespaces of its own.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything if none is named
    #[arg(value_name = "NAME")]
    names: Vec<Benchmark>,
    /// How often each figure is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Networks at most, of `scale` and `control`
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1000))]
    networks: u16,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures as SVG into a directory, and write their tables into the document DIR.md, if that is there
    #[arg(long, value_name = "DIR")]
    plot: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "namespaces and BPF programs need root rights");
    let vnet = env::current_exe()?.with_file_name("vnet");
    ensure!(vnet.is_file(), "{} is not there; build it: cargo xtask build", vnet.display());
    let vnet = vnet.to_str().context("the path of `vnet` is not UTF-8")?;
    let names = match arguments.names.as_slice() {
        [] => Benchmark::all(),
        names => names,
    };
    let rounds = usize::from(arguments.rounds);
    let settings = Settings { vnet, rounds, networks: arguments.networks.into() };
    let machine = Machine::this();
    let measured = names.iter().map(|name| name.run(settings)).collect::<Result<Vec<_>>>()?;
    let report = Report::of(machine, rounds, measured);
    print!("{report}");
    if let Some(path) = arguments.json {
        write(&path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    if let Some(directory) = arguments.plot {
        fs::create_dir_all(&directory)?;
        for (name, text) in draw(&report) {
            write(&directory.join(name), &text)?;
        }
        let document = directory.with_extension("md");
        if document.is_file() {
            let text = fs::read_to_string(&document)?;
            let beside = directory.file_name().unwrap_or_default().to_string_lossy();
            let renewed =
                renew(&text, &report, &beside).with_context(|| document.display().to_string())?;
            write(&document, &renewed)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
