//! A rig's clock and memory: time that passes at once, and tables as they were at load.

use std::net::IpAddr;

use anyhow::Result;
use aya::maps::{MapError, PerCpuArray, PerCpuValues, Queue};
use bytemuck::Zeroable as _;
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    flow::{
        ExternalPort, FlowKey4, FlowKey6, FlowSlot, FragmentKey, FragmentSlot, GuestUsage,
        HeldFragment, HeldKey, Mapping, MappingKey, Phase, PortHolder, Session, SessionCursor,
    },
    limits::DRAIN_NS,
    names::map,
    network::NetworkTraffic,
    path::{Path, PathKey},
    port_map::PortMap,
    timeout::NANOSECONDS,
};

use super::load::{self, Plain};
use super::rig::{Rig, address};

impl Rig {
    /// Makes everything so many seconds older, and forgets fragments; expires nothing by itself.
    pub fn age(&mut self, seconds: u64) -> Result<()> {
        let back = |time: &mut u64| {
            if *time != 0 {
                *time = time.saturating_sub(seconds * NANOSECONDS).max(1);
            }
        };
        for index in self.tables()?.sessions.into_keys() {
            self.set_session(index, |session| {
                back(&mut session.last_outbound);
                back(&mut session.last_inbound);
                back(&mut session.since);
            })?;
        }
        self.set_mappings(|mapping| back(&mut mapping.idle_since))?;
        self.set_host_flows(back)?;
        self.forget_fragments()
    }

    /// Lets ended slots have rested, so that the sweep moves them on.
    pub fn drain(&mut self) -> Result<()> {
        let rested = self.clock()?.saturating_sub(2 * DRAIN_NS).max(1);
        self.set_since_of_ended(rested)
    }

    /// Lets ended slots have ended just now.
    pub fn rest(&mut self) -> Result<()> {
        let now = self.clock()?;
        self.set_since_of_ended(now)
    }

    fn set_since_of_ended(&mut self, since: u64) -> Result<()> {
        let tables = self.tables()?;
        let ended = |session: &Session| {
            matches!(Phase::from_word(session.phase), Phase::Draining | Phase::HoldDown)
        };
        for (index, _) in tables.sessions.into_iter().filter(|(_, session)| ended(session)) {
            self.set_session(index, |session| session.since = since)?;
        }
        Ok(())
    }

    /// Lets the sweep begin at the first slot.
    pub fn restart_sweep(&mut self) -> Result<()> {
        let mut cursor = load::array_mut::<SessionCursor>(self.ebpf_mut(), map::SESSION_CURSOR)?;
        let Plain(mut place) = cursor.get(&0, 0)?;
        (place.sweep, place.review) = (0, 0);
        Ok(cursor.set(0, Plain(place), 0)?)
    }

    /// The external port of an inside endpoint's mapping at an external address.
    #[must_use]
    pub fn mapped_port(
        &self,
        protocol: u8,
        inside: (IpAddr, u16),
        external: IpAddr,
    ) -> Option<u16> {
        let key = MappingKey {
            inside: address(&inside.0.to_string()),
            external: address(&external.to_string()),
            inside_port: PortBe::from_host(inside.1),
            protocol,
            reserved: 0,
        };
        let mappings = load::hash::<MappingKey, Mapping>(self.ebpf(), map::MAPPINGS).ok()?;
        let Plain(mapping) = mappings.get(&Plain(key), 0).ok()?;
        Some(mapping.external_port.to_host())
    }

    /// Forgets the first fragments of datagrams, and those that came before them.
    pub fn forget_fragments(&mut self) -> Result<()> {
        clear_lru::<HeldKey, HeldFragment>(self, map::HELD_FRAGMENTS)?;
        clear_lru::<FragmentKey, FragmentSlot>(self, map::FRAGMENTS)?;
        clear_lru::<FragmentKey<Address>, FragmentSlot>(self, map::FRAGMENTS_IPV6)
    }

    /// Empties every table of flows and every counter.
    pub fn clear(&mut self) -> Result<()> {
        let tables = self.tables()?;
        let ebpf = self.ebpf_mut();
        let mut sessions = load::array_mut::<Session>(ebpf, map::SESSIONS)?;
        for index in tables.sessions.keys() {
            sessions.set(*index, Plain(Session::zeroed()), 0)?;
        }
        let mut cursor = load::array_mut::<SessionCursor>(ebpf, map::SESSION_CURSOR)?;
        cursor.set(0, Plain(SessionCursor::zeroed()), 0)?;
        let mut free = Queue::<_, u32>::try_from(load::found_mut(ebpf, map::FREE_SESSIONS)?)?;
        while free.pop(0).is_ok() {}
        remove::<FlowKey4, FlowSlot>(self, map::FLOWS, tables.flows)?;
        remove::<FlowKey6, FlowSlot>(self, map::FLOWS_IPV6, tables.flows_ipv6)?;
        remove::<MappingKey, Mapping>(self, map::MAPPINGS, tables.mappings)?;
        remove::<ExternalPort, PortHolder>(self, map::EXTERNAL_PORTS, tables.ports)?;
        remove::<Address, GuestUsage>(self, map::GUESTS, tables.guests)?;
        remove::<ExternalPort, PortMap>(self, map::PORT_MAPS, tables.port_maps)?;
        let mut used = load::array_mut::<u64>(self.ebpf_mut(), map::NETWORK_FLOWS)?;
        for slot in 0..used.len() {
            used.set(slot, Plain(0), 0)?;
        }
        clear_lru::<Address, u64>(self, map::DEPARTURES)?;
        clear_lru::<FlowKey6, u64>(self, map::HOST_FLOWS)?;
        // The epochs that they hold for may begin again.
        clear_lru::<PathKey<Ipv4Be>, Path>(self, map::PATHS)?;
        clear_lru::<PathKey<Address>, Path>(self, map::PATHS_IPV6)?;
        self.clear_forwards()?;
        self.zero::<u64>(map::PORT_SEARCH)?;
        self.forget_fragments()?;
        self.zero::<u64>(map::DROPS)?;
        self.zero::<u64>(map::HANDOVERS)?;
        self.zero::<NetworkTraffic>(map::TRAFFIC)
    }

    fn zero<V: bytemuck::Pod + PartialEq>(&mut self, name: &str) -> Result<()> {
        let found = load::found_mut(self.ebpf_mut(), name)?;
        let mut array = PerCpuArray::<_, Plain<V>>::try_from(found)?;
        for index in 0..array.len() {
            let values = array.get(&index, 0)?;
            if values.iter().any(|value| value.0 != V::zeroed()) {
                let zeros = vec![Plain(V::zeroed()); values.len()];
                array.set(index, PerCpuValues::try_from(zeros)?, 0)?;
            }
        }
        Ok(())
    }
}

fn remove<K: bytemuck::Pod, V: bytemuck::Pod>(
    rig: &mut Rig,
    name: &str,
    entries: Vec<(K, V)>,
) -> Result<()> {
    let mut map = load::hash_mut::<K, V>(rig.ebpf_mut(), name)?;
    for (key, _) in entries {
        map.remove(&Plain(key))?;
    }
    Ok(())
}

fn clear_lru<K: bytemuck::Pod, V: bytemuck::Pod>(rig: &mut Rig, name: &str) -> Result<()> {
    let mut map = load::hash_mut::<K, V>(rig.ebpf_mut(), name)?;
    let keys = map.keys().collect::<Result<Vec<_>, MapError>>()?;
    for key in keys {
        map.remove(&key)?;
    }
    Ok(())
}
