//! Where packets that go on as they are went lately.

use anyhow::Result;
use bytemuck::Pod;
use vnet_common::{
    address::{Address, Ipv4Be},
    names::map,
    path::{Path, PathKey},
    shortcut::WAY_LIFE,
};

use super::load;
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

    /// Changes all of it.
    pub fn set_paths(&mut self, change: impl Fn(&mut Path)) -> Result<()> {
        self.set_paths_in::<Ipv4Be>(map::PATHS, &change)?;
        self.set_paths_in::<Address>(map::PATHS_IPV6, &change)
    }

    fn set_paths_in<A>(&mut self, name: &str, change: &impl Fn(&mut Path)) -> Result<()>
    where
        PathKey<A>: Pod,
    {
        let mut paths = load::hash_mut::<PathKey<A>, Path>(self.ebpf_mut(), name)?;
        for (key, mut path) in paths.iter().collect::<Result<Vec<_>, _>>()? {
            change(&mut path.0);
            path.0.seal = key.0.seal(&path.0);
            paths.insert(key, path, 0)?;
        }
        Ok(())
    }

    /// Makes it so old that it is over.
    pub fn age_paths(&mut self) -> Result<()> {
        self.keep_ways_young(false);
        self.set_paths(|path| path.found = path.found.wrapping_sub(WAY_LIFE).max(1))
    }
}
