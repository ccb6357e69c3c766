//! What the programs have noted of the host's own flows.

use anyhow::Result;
use vnet_common::{flow::FlowKey6, names::map};

use super::load::{self, Plain};
use super::rig::Rig;

impl Rig {
    /// How remotes' packets find the host, and when it last sent there.
    pub fn host_flows(&self) -> Result<Vec<(FlowKey6, u64)>> {
        let flows = load::hash::<FlowKey6, u64>(self.ebpf(), map::HOST_FLOWS)?;
        flows.iter().map(|entry| Ok(entry.map(|(key, last)| (key.0, last.0))?)).collect()
    }

    /// Changes all of these times.
    pub fn set_host_flows(&mut self, change: impl Fn(&mut u64)) -> Result<()> {
        let all = self.host_flows()?;
        let mut flows = load::hash_mut::<FlowKey6, u64>(self.ebpf_mut(), map::HOST_FLOWS)?;
        for (key, mut last) in all {
            change(&mut last);
            flows.insert(Plain(key), Plain(last), 0)?;
        }
        Ok(())
    }
}
