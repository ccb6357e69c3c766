//! What the tests boot real guests from: a kernel of Debian's and an initramfs that takes commands.

use std::{
    collections::BTreeSet,
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

/// What `init.sh` loads, as far as it is not part of the kernel. The kernel would load others on its
/// own if they were there, which takes a translated processor seconds.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_net", "virtio_console", "af_packet"];

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
    add_modules(&mut initramfs, kernel)?;
    initramfs.program("init", include_bytes!("real_guest/init.sh"))?;
    initramfs.program("lease.sh", include_bytes!("real_guest/lease.sh"))?;
    initramfs.finish()
}

fn add_modules(initramfs: &mut Initramfs, kernel: &Kernel) -> Result<()> {
    let directory = Path::new("lib/modules").join(&kernel.release);
    let dependencies = fs::read_to_string(kernel.modules.join(&directory).join("modules.dep"))
        .context("cannot read modules.dep")?;
    // Sorted, so that each file comes after the directories above it.
    let mut paths = BTreeSet::new();
    for file in files(&dependencies).chain(["modules.dep", "modules.builtin"]) {
        let path = directory.join(file);
        let all = path.ancestors().filter(|path| path.starts_with("lib/modules"));
        paths.extend(all.map(Path::to_path_buf));
    }
    for path in paths {
        let source = kernel.modules.join(&path);
        if source.is_dir() {
            initramfs.directory(&path.to_string_lossy())?;
        } else {
            initramfs.tree(&path, &source)?;
        }
    }
    Ok(())
}

/// The files of [`MODULES`] and of those that they need, by the lines of `modules.dep`.
fn files(dependencies: &str) -> impl Iterator<Item = &str> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(file, _)| {
        let name = file.rsplit('/').next().unwrap_or_default();
        let name = name.split('.').next().unwrap_or_default().replace('-', "_");
        MODULES.contains(&name.as_str())
    });
    wanted.flat_map(|(file, needed)| std::iter::once(file).chain(needed.split_whitespace()))
}

fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let draft = path.with_extension(std::process::id().to_string());
    fs::write(&draft, content)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_those_that_they_need() {
        let dependencies = "kernel/drivers/net/tun.ko.xz:\n\
            kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz \
            kernel/net/core/failover.ko.xz\n\
            kernel/drivers/virtio/virtio-pci.ko: kernel/drivers/virtio/virtio.ko\n";
        let files: Vec<_> = files(dependencies).collect();
        assert_eq!(
            files,
            [
                "kernel/drivers/net/virtio_net.ko.xz",
                "kernel/drivers/net/net_failover.ko.xz",
                "kernel/net/core/failover.ko.xz",
                "kernel/drivers/virtio/virtio-pci.ko",
                "kernel/drivers/virtio/virtio.ko",
            ]
        );
    }
}
