//! A kernel of Debian's archive: which one is meant, and its files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::archive::{self, Archive, SUITES};
use crate::process::CommandExt as _;

/// Where the modules lie that networks, and a machine in QEMU, need.
const KEPT_MODULES: [&str; 10] = [
    "arch",
    "crypto",
    "drivers/char",
    "drivers/net",
    "drivers/virtio",
    "fs/9p",
    "fs/fscache",
    "fs/netfs",
    "lib",
    "net",
];

/// Large, and for hardware that the machine does not have.
const DROPPED_MODULES: [&str; 8] = [
    "arch/x86/kvm",
    "drivers/net/can",
    "drivers/net/ethernet",
    "drivers/net/phy",
    "drivers/net/usb",
    "drivers/net/wireless",
    "net/mac80211",
    "net/wireless",
];

/// A kernel that is ready to boot.
pub struct Kernel {
    /// What `uname -r` says.
    pub release: String,
    /// The boot image.
    pub image: PathBuf,
    /// Has the modules at `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The newest kernel whose version begins with `wanted`: of those that were fetched before, or
    /// else of the first suite that has one.
    pub fn ready(archive: &Archive, busybox: &Path, wanted: &str) -> Result<Self> {
        let all = archive.directory.join("kernels");
        archive::make_directory(&all)?;
        let present = fs::read_dir(&all).context("cannot list the kernels")?;
        let present: Vec<_> = present
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        if let Some(release) = newest(&present, wanted) {
            return Ok(Self::at(&all, release));
        }
        let mut seen = Vec::new();
        for suite in SUITES {
            archive.update(suite)?;
            let names = archive.names(suite, "linux-");
            let releases: Vec<_> = names
                .iter()
                .filter_map(|name| name.strip_prefix("linux-image-").map(str::to_owned))
                .collect();
            if let Some(release) = newest(&releases, wanted) {
                let unpacked = archive.fetch(suite, &packages(release, &names))?;
                prepare(&unpacked, &all, release, busybox)?;
                return Ok(Self::at(&all, release));
            }
            seen.extend(newest(&releases, "").map(str::to_owned));
        }
        bail!(
            "Debian's archive has no kernel {wanted}; the newest of its suites are {}",
            seen.join(", ")
        )
    }

    fn at(all: &Path, release: &str) -> Self {
        let directory = all.join(release);
        Self { release: release.to_owned(), image: directory.join("vmlinuz"), modules: directory }
    }
}

/// Moves what is needed to `all/RELEASE`, which appears when it is complete.
fn prepare(unpacked: &Path, all: &Path, release: &str, busybox: &Path) -> Result<()> {
    let draft = unpacked.join("ready");
    let modules = draft.join("lib/modules").join(release);
    let source = ["lib/modules", "usr/lib/modules"]
        .map(|path| unpacked.join(path).join(release))
        .into_iter()
        .find(|path| path.is_dir())
        .context("the kernel's package has no modules")?;
    for dropped in DROPPED_MODULES {
        archive::remove_directory(&source.join("kernel").join(dropped))?;
    }
    for kept in KEPT_MODULES {
        let from = source.join("kernel").join(kept);
        let to = modules.join("kernel").join(kept);
        if from.is_dir() {
            archive::make_directory(to.parent().unwrap_or(&modules))?;
            fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
        }
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::rename(source.join(list), modules.join(list))
            .with_context(|| format!("cannot move {list}"))?;
    }
    let image = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")]
        .map(|path| unpacked.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("the kernel's package has no image")?;
    fs::rename(&image, draft.join("vmlinuz")).context("cannot move the kernel's image")?;
    // Names are resolved to files here, because the guest would take much longer.
    Command::new(busybox)
        .args(["depmod", "-b"])
        .arg(&draft)
        .arg(release)
        .check_logged(&unpacked.join("depmod.log"))?;
    fs::rename(&draft, all.join(release)).context("cannot move the kernel")?;
    archive::remove_directory(unpacked)
}

/// The packages that hold a kernel: one, or with Linux 7 those that the one only depends on.
fn packages(release: &str, known: &[String]) -> Vec<String> {
    let parts = ["base", "binary", "modules"].map(|part| format!("linux-{part}-{release}"));
    if parts.iter().all(|part| known.contains(part)) {
        return parts.into();
    }
    vec![format!("linux-image-{release}")]
}

/// The newest of these releases whose version begins with `wanted`. Debian's other flavours
/// (cloud, real-time) and packages that only name others are passed over.
fn newest<'a>(releases: &'a [String], wanted: &str) -> Option<&'a str> {
    let wanted = numbers(wanted);
    releases
        .iter()
        .filter(|release| is_plain(release) && numbers(release).starts_with(&wanted))
        .max_by_key(|release| numbers(release))
        .map(String::as_str)
}

/// As `6.1.0-56-amd64` or `6.12.117+deb12-amd64`.
fn is_plain(release: &str) -> bool {
    let Some(version) = release.strip_suffix("-amd64") else { return false };
    let (upstream, revision) = version.split_once('-').unwrap_or((version, "0"));
    upstream.matches('.').count() >= 2
        && upstream.starts_with(|first: char| first.is_ascii_digit())
        && revision.chars().all(|character| character.is_ascii_digit())
}

/// The numbers in a version, in order; the architecture's is none of them.
fn numbers(version: &str) -> Vec<u32> {
    version
        .trim_end_matches("-amd64")
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases() -> Vec<String> {
        [
            "6.1-amd64",
            "6.1.0-9-amd64",
            "6.1.0-56-amd64",
            "6.1.0-57-cloud-amd64",
            "6.1.0-57-amd64-unsigned",
            "6.12.101+deb12-amd64",
            "6.12.99+deb12-amd64",
            "6.12.117+deb12-rt-amd64",
            "amd64",
        ]
        .map(String::from)
        .into()
    }

    #[test]
    fn newest_plain_kernel_of_the_wanted_series_is_taken() {
        assert_eq!(newest(&releases(), "6.1"), Some("6.1.0-56-amd64"));
        assert_eq!(newest(&releases(), "6.12"), Some("6.12.101+deb12-amd64"));
        assert_eq!(newest(&releases(), "6.12.99"), Some("6.12.99+deb12-amd64"));
        assert_eq!(newest(&releases(), "7"), None);
    }

    #[test]
    fn kernel_in_parts_is_fetched_in_parts() {
        let mut known = vec!["linux-image-7.3.4-amd64".to_owned()];
        assert_eq!(packages("7.3.4-amd64", &known), ["linux-image-7.3.4-amd64"]);
        let parts = ["base", "binary", "modules"].map(|part| format!("linux-{part}-7.3.4-amd64"));
        known.extend(parts.clone());
        assert_eq!(packages("7.3.4-amd64", &known), parts);
    }

    #[test]
    fn newest_of_all_is_meant_without_a_version() {
        assert_eq!(newest(&releases(), ""), Some("6.12.101+deb12-amd64"));
    }
}
