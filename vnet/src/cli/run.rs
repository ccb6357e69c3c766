//! `vnet run`: serve these definitions on this host.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use vnet::{
    datapath::AttachMode,
    guests::watch::LIBVIRT_DIRECTORY,
    instance::Name,
    plan::XdpSetting,
    supervise::{self, RunError},
};

use super::{REFUSED, print, runtime};

/// Attach to the bridges that the definitions name, and serve them until SIGINT or SIGTERM.
///
/// Prints `ready` when every program is in place. At the end the host is left as it was found, unless
/// `--keep` is given. Definitions are applied when their files change; SIGHUP reads all of them again.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    start: Start,
    /// Leave the datapath in place at the end
    #[arg(long)]
    keep: bool,
    /// Leave changed definitions alone until SIGHUP or `vnet apply`
    #[arg(long)]
    no_watch: bool,
}

/// What a start of the datapath is told.
#[derive(Debug, Args)]
pub struct Start {
    /// libvirt network XML, or directories of it
    #[arg(required_unless_present_any = ["short_ways", "xdp"], value_name = "FILE|DIR")]
    definitions: Vec<PathBuf>,
    /// Interface towards outside; may be repeated [default: all that the host's routes use]
    #[arg(long = "uplink", value_name = "IF")]
    uplinks: Vec<String>,
    /// Name that keeps several instances on one kernel apart
    #[arg(long, default_value = "default", value_name = "NAME")]
    instance: Name,
    /// Directory of the DHCP servers' lease files, for the guard
    #[arg(long, default_value = LIBVIRT_DIRECTORY, value_name = "DIR")]
    leases: PathBuf,
    /// How programs are attached
    #[arg(long, default_value = "auto", value_name = "HOOK")]
    attach: Attach,
    /// Flows that there may be at the same time [default: 262144, or what a running datapath has]
    #[arg(long, value_name = "NUMBER",
          value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_flows: Option<u32>,
    /// What the programs in the kernel log about packets
    #[arg(long, default_value = "off", value_name = "LEVEL")]
    log: LogLevel,
    /// Make bridges that the host does not have, and delete them when their networks go
    #[arg(long)]
    create_bridges: bool,
    /// Start no dnsmasq for networks with DHCP, DNS or IPv6: somebody else serves them
    #[arg(long)]
    no_services: bool,
    /// Whether packets of known flows pass by the bridge [default: on, or what a running datapath has]
    #[arg(long, value_name = "SWITCH")]
    short_ways: Option<Switch>,
    /// When native XDP is used, never with `--short-ways off` [default: auto, or what a running datapath
    /// has]
    #[arg(long, value_name = "WHEN")]
    xdp: Option<Xdp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// With the limits that docs/xdp.md lists
    On,
    /// Every packet goes through its bridge
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Xdp {
    /// Where a NIC has it, for all but bulk TCP, which is faster without
    Auto,
    /// Wherever there is any, for all packets of established flows
    On,
    /// Nowhere
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Attach {
    /// tcx where the kernel has it (Linux 6.6), else clsact
    Auto,
    /// Links of the tcx hooks
    Tcx,
    /// Filters of the clsact qdisc
    Clsact,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    /// Nothing; costs nothing
    Off,
    /// Same as debug: packets that are dropped
    Info,
    /// Packets that are dropped
    Debug,
    /// Also packets that are left to the host's stack
    Trace,
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.start.definitions.is_empty() {
            return Ok(refused(NO_DEFINITIONS));
        }
        let watch = !self.no_watch;
        let options = supervise::Options { watch, ..self.start.options(self.keep) };
        let ready = || {
            // Nobody may be listening, which is no reason to stop serving.
            let _ = print("ready\n");
        };
        match runtime()?.block_on(supervise::run(&options, ready)) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(RunError::Refused(refusal)) => Ok(refused(&refusal.to_string())),
            Err(RunError::Failed(error)) => Err(error),
        }
    }
}

/// `vnet apply --xdp` or `--short-ways` alone goes without.
const NO_DEFINITIONS: &str = "give the definitions to serve: FILE or DIR";

impl Start {
    pub fn options(self, keep: bool) -> supervise::Options {
        supervise::Options {
            definitions: self.definitions,
            instance: self.instance,
            uplinks: self.uplinks,
            leases: self.leases,
            attach: match self.attach {
                Attach::Auto => AttachMode::Auto,
                Attach::Tcx => AttachMode::Tcx,
                Attach::Clsact => AttachMode::Clsact,
            },
            flow_limit: self.max_flows,
            log: self.log.level(),
            keep,
            create_bridges: self.create_bridges,
            no_services: self.no_services,
            short_ways: self.short_ways.map(|switch| switch == Switch::On),
            xdp: self.xdp.map(Xdp::setting),
            watch: false,
        }
    }
}

/// Says why, and that nothing was changed by the exit code.
pub fn refused(reason: &str) -> ExitCode {
    let prefix = if reason.starts_with("error") { "" } else { "error: " };
    let _ = writeln!(io::stderr(), "{prefix}{}", reason.trim_end());
    ExitCode::from(REFUSED)
}

impl Xdp {
    const fn setting(self) -> XdpSetting {
        match self {
            Self::Auto => XdpSetting::Auto,
            Self::On => XdpSetting::On,
            Self::Off => XdpSetting::Off,
        }
    }
}

impl LogLevel {
    fn level(self) -> Option<log::Level> {
        match self {
            Self::Off => None,
            Self::Info | Self::Debug => Some(log::Level::Debug),
            Self::Trace => Some(log::Level::Trace),
        }
    }
}
