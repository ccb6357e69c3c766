//! Filling the maps of the short ways past the bridge.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap},
    time::Duration,
};

use aya::{
    Pod,
    maps::{Array, HashMap, xdp::DevMapHash},
};
use nix::time::{ClockId, clock_gettime};
use vnet_common::{
    guard::{Mac, MacKey},
    limits,
    names::map,
    shortcut::{BridgePort, PORT_TAKES_XDP, Station, XdpMode, XdpUplink},
};

use super::{
    Datapath, DatapathError,
    tables::{absent_is_fine, failed},
};
use crate::plan::ShortcutTables;

const ANY: u64 = 0;
/// Of `MOVES`.
const STEP: u32 = 1 << 8;

/// What the maps say, beside what the programs have seen.
#[derive(Debug, Default)]
pub(super) struct Shortcut {
    tables: ShortcutTables,
    /// Whether a write has failed half way, so that the maps have to be read.
    is_torn: bool,
}

impl Datapath {
    /// Whether the object has short ways; one of an earlier layout has none.
    #[must_use]
    pub fn has_shortcut(&self) -> bool {
        self.ebpf.map(map::BRIDGE_PORTS).is_some()
    }

    /// Makes the maps say what the tables say. Whether ways may be in use that are none any more, so that a new
    /// epoch has to begin.
    pub fn write_shortcut(&mut self, new: &ShortcutTables) -> Result<bool, DatapathError> {
        if !self.has_shortcut() {
            return Ok(false);
        }
        if self.shortcut.is_torn {
            self.read_shortcut()?;
        }
        self.shortcut.is_torn = true;
        let old = self.shortcut.tables.clone();
        let mut new = new.clone();
        // What is allowed no more goes first: whatever fails then, nothing is allowed that should not be.
        let is_wrong =
            |(index, at): &(&u32, &BridgePort)| at.allows_more_than(new.ports.get(index));
        let mut ports: HashMap<_, u32, BridgePort> = self.map(map::BRIDGE_PORTS)?;
        let wrong: BTreeSet<u32> = old.ports.iter().filter(is_wrong).map(|(at, _)| *at).collect();
        for port in &wrong {
            absent_is_fine(ports.remove(port), map::BRIDGE_PORTS)?;
        }
        let mut addresses: Array<_, Mac> = self.map(map::BRIDGE_ADDRESSES)?;
        let others =
            |slot: &u32, mac: &Mac, of: &ShortcutTables| of.addresses.get(slot) != Some(mac);
        for (slot, _) in old.addresses.iter().filter(|(slot, mac)| others(slot, mac, &new)) {
            addresses.set(*slot, Mac::NONE, ANY).map_err(failed(map::BRIDGE_ADDRESSES))?;
        }
        for (device, _) in
            old.uplinks.iter().filter(|(device, _)| !new.uplinks.contains_key(device))
        {
            self.leave_uplink(*device)?;
        }
        self.leave_xdp_ports(&old, &new)?;
        self.enter_xdp_ports(&mut new)?;
        let mut addresses: Array<_, Mac> = self.map(map::BRIDGE_ADDRESSES)?;
        for (slot, mac) in new.addresses.iter().filter(|(slot, mac)| others(slot, mac, &old)) {
            addresses.set(*slot, *mac, ANY).map_err(failed(map::BRIDGE_ADDRESSES))?;
        }
        let mut ports: HashMap<_, u32, BridgePort> = self.map(map::BRIDGE_PORTS)?;
        for (port, at) in &new.ports {
            if wrong.contains(port) || old.ports.get(port) != Some(at) {
                ports.insert(port, at, ANY).map_err(failed(map::BRIDGE_PORTS))?;
            }
        }
        for (device, at) in
            new.uplinks.iter().filter(|(device, at)| old.uplinks.get(device) != Some(at))
        {
            self.enter_uplink(*device, *at)?;
        }
        let is_narrower = old.is_wider_than(&new);
        self.shortcut = Shortcut { tables: new, is_torn: false };
        Ok(is_narrower)
    }

    fn leave_uplink(&mut self, device: u32) -> Result<(), DatapathError> {
        self.set_uplink_by_index(device, XdpUplink::default())?;
        let mut uplinks: HashMap<_, u32, XdpUplink> = self.map(map::XDP_UPLINKS)?;
        absent_is_fine(uplinks.remove(&device), map::XDP_UPLINKS)
    }

    fn enter_uplink(&mut self, device: u32, at: XdpUplink) -> Result<(), DatapathError> {
        let mut uplinks: HashMap<_, u32, XdpUplink> = self.map(map::XDP_UPLINKS)?;
        uplinks.insert(device, at, ANY).map_err(failed(map::XDP_UPLINKS))?;
        self.set_uplink_by_index(device, at)
    }

    fn set_uplink_by_index(&mut self, device: u32, at: XdpUplink) -> Result<(), DatapathError> {
        if device >= limits::XDP_UPLINKS_BY_INDEX {
            return Ok(());
        }
        let mut uplinks: Array<_, XdpUplink> = self.map(map::XDP_UPLINKS_BY_INDEX)?;
        uplinks.set(device, at, ANY).map_err(failed(map::XDP_UPLINKS_BY_INDEX))
    }

    /// A port that does not get into the map gets no frames of XDP.
    fn enter_xdp_ports(&mut self, new: &mut ShortcutTables) -> Result<(), DatapathError> {
        let mut map: DevMapHash<_> = self.map(map::XDP_PORTS)?;
        for (port, at) in &mut new.ports {
            // Anew each time: the kernel removes ports that go.
            if at.flags & PORT_TAKES_XDP != 0
                && let Err(error) = map.insert(*port, *port, None, ANY)
            {
                log::debug!("port #{port} gets no frames of XDP: {error}");
                at.flags &= !PORT_TAKES_XDP;
            }
        }
        Ok(())
    }

    fn leave_xdp_ports(
        &mut self,
        old: &ShortcutTables,
        new: &ShortcutTables,
    ) -> Result<(), DatapathError> {
        let takes = |at: &BridgePort| at.flags & PORT_TAKES_XDP != 0;
        let mut map: DevMapHash<_> = self.map(map::XDP_PORTS)?;
        for (port, _) in old.ports.iter().filter(|(_, at)| takes(at)) {
            if !new.ports.get(port).is_some_and(takes) {
                absent_is_fine(map.remove(*port), map::XDP_PORTS)?;
            }
        }
        Ok(())
    }

    /// Lets short ways hold for a time from now on; none do after that, whatever has become of this process.
    pub fn lease_short_ways(&mut self, time: Duration) -> Result<(), DatapathError> {
        if !self.has_shortcut() {
            return Ok(());
        }
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        let until = if time.is_zero() { 0 } else { (now + time).as_nanos() };
        let until = u64::try_from(until).unwrap_or(0);
        self.set_word(map::SHORTCUT_LEASE, until)
    }

    /// What packets XDP takes where it is attached.
    pub fn set_xdp_mode(&mut self, mode: XdpMode) -> Result<(), DatapathError> {
        if !self.has_shortcut() {
            return Ok(());
        }
        self.set_word(map::XDP_MODE, mode as u32)
    }

    /// Writes the only element of a map, if it says something else.
    fn set_word<T: Pod + PartialEq>(
        &mut self,
        name: &'static str,
        word: T,
    ) -> Result<(), DatapathError> {
        let mut map: Array<_, T> = self.map(name)?;
        if map.get(&0, ANY).map_err(failed(name))? == word {
            return Ok(());
        }
        map.set(0, word, ANY).map_err(failed(name))
    }

    /// Enters stations at the ports where their bridges know them, which nobody has seen there yet, and
    /// removes those at none.
    pub fn write_stations(
        &mut self,
        stations: &BTreeMap<MacKey, Option<u32>>,
    ) -> Result<(), DatapathError> {
        if !self.has_shortcut() || stations.is_empty() {
            return Ok(());
        }
        let mut map: HashMap<_, MacKey, Station> = self.map(map::STATIONS)?;
        for (key, port) in stations {
            match port {
                Some(port) => {
                    let station = Station { port: *port, seen_at: 0, seen: 0 };
                    map.insert(key, station, ANY).map_err(failed(map::STATIONS))?;
                }
                None => absent_is_fine(map.remove(key), map::STATIONS)?,
            }
        }
        Ok(())
    }

    /// Makes every inbound way be found anew. Programs count moves that they see, one by one and at any time:
    /// a large step is none of theirs.
    pub fn note_move(&mut self) -> Result<(), DatapathError> {
        if !self.has_shortcut() {
            return Ok(());
        }
        let mut map: Array<_, u32> = self.map(map::MOVES)?;
        let moves = map.get(&0, ANY).map_err(failed(map::MOVES))?;
        map.set(0, moves.wrapping_add(STEP), ANY).map_err(failed(map::MOVES))
    }

    /// What the maps say.
    #[must_use]
    pub const fn shown_shortcut(&self) -> &ShortcutTables {
        &self.shortcut.tables
    }

    /// The stations that are entered, and their ports.
    pub fn stations(&mut self) -> Result<StdHashMap<MacKey, u32>, DatapathError> {
        if !self.has_shortcut() {
            return Ok(StdHashMap::new());
        }
        let map: HashMap<_, MacKey, Station> = self.map(map::STATIONS)?;
        Ok(map.iter().flatten().map(|(key, station)| (key, station.port)).collect())
    }

    /// What the maps of a datapath say that is taken over.
    pub(super) fn read_shortcut(&mut self) -> Result<(), DatapathError> {
        if !self.has_shortcut() {
            return Ok(());
        }
        let mut tables = ShortcutTables::default();
        let ports: HashMap<_, u32, BridgePort> = self.map(map::BRIDGE_PORTS)?;
        for entry in &ports {
            let (port, at) = entry.map_err(failed(map::BRIDGE_PORTS))?;
            tables.ports.insert(port, at);
        }
        let addresses: Array<_, Mac> = self.map(map::BRIDGE_ADDRESSES)?;
        for slot in 0..addresses.len() {
            let mac = addresses.get(&slot, ANY).map_err(failed(map::BRIDGE_ADDRESSES))?;
            if mac != Mac::NONE {
                tables.addresses.insert(slot, mac);
            }
        }
        let uplinks: HashMap<_, u32, XdpUplink> = self.map(map::XDP_UPLINKS)?;
        for entry in &uplinks {
            let (device, at) = entry.map_err(failed(map::XDP_UPLINKS))?;
            tables.uplinks.insert(device, at);
        }
        // What is there only half is entered anew.
        let by_index: Array<_, XdpUplink> = self.map(map::XDP_UPLINKS_BY_INDEX)?;
        tables.uplinks.retain(|device, at| {
            *device >= by_index.len() || by_index.get(device, ANY).is_ok_and(|same| same == *at)
        });
        self.shortcut.tables = tables;
        Ok(())
    }
}
