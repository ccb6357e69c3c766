//! Where packets that go on as they are went lately.

use anyhow::Result;
use vnet_common::{
    address::{Address, Ipv4Be},
    names::map,
    path::{Path, PathKey},
    shortcut::WAY_LIFE,
};

use super::load::{self, Plain};
use super::rig::Rig;

impl Rig {
    /// All that is remembered.
    pub fn paths(&self) -> Result<Vec<Path>> {
        let mut all = Vec::new();
        for entry in &load::hash::<PathKey<Ipv4Be>, Path>(self.ebpf(), map::PATHS)? {
            all.push(entry?.1.0);
        }
        for entry in &load::hash::<PathKey<Address>, Path>(self.ebpf(), map::PATHS_IPV6)? {
            all.push(entry?.1.0);
        }
        Ok(all)
    }

    /// Makes it so old that it is over.
    pub fn age_paths(&mut self) -> Result<()> {
        let age =
            |path: Path| Plain(Path { found: path.found.wrapping_sub(WAY_LIFE).max(1), ..path });
        let mut paths = load::hash_mut::<PathKey<Ipv4Be>, Path>(self.ebpf_mut(), map::PATHS)?;
        for (key, path) in paths.iter().collect::<Result<Vec<_>, _>>()? {
            paths.insert(key, age(path.0), 0)?;
        }
        let mut paths = load::hash_mut::<PathKey<Address>, Path>(self.ebpf_mut(), map::PATHS_IPV6)?;
        for (key, path) in paths.iter().collect::<Result<Vec<_>, _>>()? {
            paths.insert(key, age(path.0), 0)?;
        }
        Ok(())
    }
}
