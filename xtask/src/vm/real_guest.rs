//! What the tests boot real guests from: a kernel of Debian's and an initramfs that takes commands.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    archive::{self, Archive},
    initramfs::Initramfs,
    kernel::Kernel,
    machine::KERNEL_ARGUMENTS,
    request::DEFAULT_KERNEL,
};
use crate::workspace::Workspace;

/// Names the directory with `kernel`, `initramfs` and the kernel's `arguments` to the tests.
pub const VARIABLE: &str = "VNET_TEST_GUEST";

/// The directory, with whatever is missing fetched.
pub fn prepare(workspace: &Workspace) -> Result<PathBuf> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the kernels are those of x86-64");
    }
    let archive = Archive::new(workspace)?;
    let busybox = archive.busybox()?;
    let kernel = Kernel::ready(&archive, &busybox, DEFAULT_KERNEL)?;

    let directory = archive.directory.join("guest");
    archive::make_directory(&directory)?;
    // Another run may have guests that are reading the old ones.
    replace(
        &directory.join("kernel"),
        &fs::read(&kernel.image).context("cannot read the kernel")?,
    )?;
    replace(&directory.join("arguments"), KERNEL_ARGUMENTS.as_bytes())?;
    replace(&directory.join("initramfs"), &initramfs(&kernel, &busybox)?)?;
    Ok(directory)
}

fn initramfs(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>> {
    let mut initramfs = Initramfs::default();
    for directory in ["bin", "sbin", "proc", "sys", "dev", "tmp", "lib"] {
        initramfs.directory(directory)?;
    }
    initramfs.program("bin/busybox", &fs::read(busybox).context("cannot read busybox")?)?;
    initramfs.link("sbin/modprobe", "/bin/busybox")?;
    initramfs.tree(Path::new("lib/modules"), &kernel.modules.join("lib/modules"))?;
    initramfs.program("init", include_bytes!("real_guest/init.sh"))?;
    initramfs.program("lease.sh", include_bytes!("real_guest/lease.sh"))?;
    initramfs.finish()
}

fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let draft = path.with_extension(std::process::id().to_string());
    fs::write(&draft, content)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
