//! `test --vm`: the test programs under kernels that this machine does not run; and what the tests boot
//! guests from, whatever kernel they run under.
//!
//! A kernel of Debian's archive boots in QEMU with a small initramfs and takes this machine's file
//! tree, read-only, as its own. So the guest has every program that the tests call, and the test
//! programs lie where cargo built them.

pub mod archive;
mod initramfs;
mod kernel;
mod machine;
mod programs;
pub mod real_guest;
mod request;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use self::request::{DEFAULT_KERNEL, Request};
use self::{archive::Archive, kernel::Kernel, machine::Machine};
use crate::{
    process, record,
    test::{Counts, Xdp},
    workspace::Workspace,
};

/// What comes before the tests so that they tell their counts: [`record::VARIABLE`], and an open harness.
const RECORDING: &str = "export VNET_TEST_RECORD=1 RUST_TEST_NOCAPTURE=1\n";

/// Boots a kernel and runs `command` there as root, in the workspace's directory.
pub fn shell(
    workspace: &Workspace,
    kernel: &str,
    command: &[String],
    limit: Duration,
) -> Result<()> {
    let archive = Archive::new(workspace)?;
    let busybox = archive.busybox()?;
    let kernel = Kernel::ready(&archive, &busybox, kernel)?;
    let words: Vec<_> = command.iter().map(|word| process::quoted(word)).collect();
    let root = process::quoted(&workspace.root.to_string_lossy());
    let script = format!("cd {root} && {}\n", words.join(" "));
    Machine { workspace, kernel: &kernel, busybox: &busybox, limit }
        .execute(&script, &mut Counts::default())
}

/// Runs the wanted tests under each wanted kernel, one after the other; `limit` is for each.
pub fn run(workspace: &Workspace, request: &Request, limit: Duration) -> Result<()> {
    let programs = programs::build(workspace)?;
    let mut script = if request.records { RECORDING } else { "" }.to_owned();
    if let Some(word) = request.xdp {
        script.extend(["export ", Xdp::VARIABLE, "=", word, "\n"]);
    }
    script += &programs::script(&programs::select(&programs, &request.filters));
    let archive = Archive::new(workspace)?;
    let busybox = archive.busybox()?;

    let mut failed = Vec::new();
    let mut passed = 0;
    let mut told = Vec::new();
    for wanted in &request.kernels {
        let kernel = Kernel::ready(&archive, &busybox, wanted)?;
        let started = Instant::now();
        println!("xtask: booting Linux {} in QEMU", kernel.release);
        let machine = Machine { workspace, kernel: &kernel, busybox: &busybox, limit };
        let mut counts = Counts::default();
        let result = machine.execute(&script, &mut counts);
        println!("xtask: Linux {}: {counts} in {} s", kernel.release, started.elapsed().as_secs());
        passed += counts.passed;
        told.extend(counts.told);
        if let Err(error) = result {
            eprintln!("xtask: Linux {}: {error:#}", kernel.release);
            failed.push(kernel.release);
        }
    }
    if !failed.is_empty() {
        bail!("failed under Linux {}", failed.join(", "));
    }
    if request.records {
        record::write(workspace, &told)?;
    }
    if passed == 0 {
        bail!("no test or test program is called {}", request.filters.join(" or "));
    }
    Ok(())
}
