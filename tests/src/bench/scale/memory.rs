//! Memory of the tables in the kernel, and of the daemon.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;

use crate::{
    bench::{
        report::{Figure, Unit},
        site::{Site, number},
    },
    vnet::Vnet,
};

/// Of a datapath with room for so many flows, and of its daemon with so many live ones.
pub(super) fn figures(site: &Site, room: u32, resident: &[(u32, u64)]) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let Some(vnet) = &site.base().vnet else { return Ok(figures) };
    let maps = site.base().host.enter(|| memory_of(&vnet.pinned("")))??;
    let each = number(maps) / f64::from(room);
    let (reference, baseline) = match tracked()? {
        Some(bytes) => (number(bytes), "of a conntrack entry, without its NAT extension"),
        None => (each, "of itself: this kernel does not tell of connection tracking"),
    };
    let topic = "memory in the kernel for each flow that there may be";
    figures.push(Figure::new((topic, "vnet"), Unit::Bytes, vec![each], (reference, baseline)));
    if baseline.starts_with("of a") {
        let name = (topic, "nft masquerade");
        figures.push(Figure::new(name, Unit::Bytes, vec![reference], (reference, baseline)));
    }
    let first = resident.first().map_or(0, |(_, bytes)| *bytes);
    for (count, bytes) in resident {
        let name = ("resident memory of the daemon, by live flows", "vnet");
        let reference = (number(first), "of 1 live flow");
        let figure = Figure::new(name, Unit::Bytes, vec![number(*bytes)], reference);
        figures.push(figure.at(number((*count).into()), "live flows"));
    }
    Ok(figures)
}

/// Bytes of all maps below a directory, as the kernel counts them since Linux 6.4 (`bpf_map_memory_usage` in
/// `kernel/bpf/syscall.c`).
fn memory_of(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        // A symbolic link beside the maps says their layout.
        if entry.file_type()?.is_symlink() {
            continue;
        }
        let path = entry.path();
        let map = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).context(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        bytes += line.context("no memlock in fdinfo")?.trim().parse::<u64>()?;
    }
    Ok(bytes)
}

/// Bytes of the daemon that are in memory: `VmRSS` of proc(5).
pub(super) fn resident(vnet: &Vnet) -> Result<u64> {
    let path = format!("/proc/{}/status", vnet.process());
    let text = fs::read_to_string(&path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kibibytes * 1024)
}

/// Bytes of a connection that netfilter tracks, if the kernel tells: slabinfo(5).
fn tracked() -> Result<Option<u64>> {
    let Ok(text) = fs::read_to_string("/proc/slabinfo") else { return Ok(None) };
    let line = text.lines().find(|line| line.split(' ').next() == Some("nf_conntrack"));
    let size = line.and_then(|line| line.split_whitespace().nth(3));
    size.map(|size| size.parse().context("slabinfo")).transpose()
}
