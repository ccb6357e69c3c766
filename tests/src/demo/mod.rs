//! The demonstration: the main job on libvirt's default network, in a lab, checked and shown.

mod bulk;
mod daemon;
mod interrupt;
mod page;
mod reachability;
mod real_host;
mod stage;
mod table;
mod teardown;
mod views;
mod witness;
mod work;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use daemon::Daemon;
use page::Page;
use stage::Stage;
use teardown::Before;
use witness::Witness;

/// What the demonstration and the lab call.
const PROGRAMS: [&str; 7] = ["ip", "tc", "nft", "ping", "curl", "tcpdump", "iperf3"];

/// The programs that the demonstration needs and that are not in `path`, a list as in `PATH`.
#[must_use]
pub fn missing_programs(path: &OsStr) -> Vec<&'static str> {
    let found = |program: &str| {
        std::env::split_paths(path).any(|directory| directory.join(program).exists())
    };
    PROGRAMS.into_iter().filter(|program| !found(program)).collect()
}

/// Runs the demonstration with this `vnet` and prints it on the standard output. Success only if
/// all of it worked. Whatever happens, nothing is left behind.
#[must_use]
pub fn run(vnet: &Path) -> ExitCode {
    let page = Arc::new(Page::on_stdout());
    let daemon = Arc::new(Daemon::new(vnet));
    let shown = interrupt::watch(&page, &daemon)
        .and_then(|()| in_the_lab(&page, &daemon))
        .and_then(|()| on_the_own_host(&page));
    if let Err(error) = shown {
        page.failure(&format!("{error:#}"));
    }
    page.conclude()
}

/// All that happens in the lab, from its making to its end.
fn in_the_lab(page: &Page, daemon: &Daemon) -> Result<()> {
    page.heading("The set-up: a lab of network namespaces; nothing of this host is touched");
    let stage = page.meanwhile("making the lab", Stage::new).context("cannot make the lab")?;
    page.text(&indented(&stage.lab.picture()));
    let played = play(page, &stage, daemon);
    // The lab's end kills what is in it; vnet has to take back first what it keeps elsewhere.
    let stopped = daemon.stop();
    played.and(stopped.map(drop))
}

fn play(page: &Page, stage: &Stage, daemon: &Daemon) -> Result<()> {
    let before = Before::of(stage).context("cannot read the state of the lab's host")?;
    let command = daemon.command_line("default.xml");
    let ready = page.meanwhile(&command, || daemon.start(&stage.host))?;
    page.passed(&command, &format!("ready after {:.2} s", ready.as_secs_f32()));

    page.heading("Who reaches whom, by ping and by TCP");
    reachability::show(page, stage)?;

    page.heading("The guests at work, and what the outside saw of it");
    let witness = Witness::start(stage)?;
    work::show(page, stage);
    witness.show(page, stage)?;

    page.heading("Bulk transfer by iperf3, 2 s each way, checksum and segmentation offloads on");
    bulk::show(page, stage)?;

    page.heading("What vnet says");
    views::show(page, stage, daemon)?;

    page.heading("After SIGTERM");
    teardown::show(page, stage, daemon, &before);
    Ok(())
}

fn on_the_own_host(page: &Page) -> Result<()> {
    page.heading("On your own host (vnet serves until Ctrl-C, and then leaves it as it was)");
    page.text(&real_host::look()?.advice());
    Ok(())
}

/// Two columns to the right, as everything of ours.
fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}
