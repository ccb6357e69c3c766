//! Filling the guard's maps.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{HashMap, LpmTrie, MapError, lpm_trie::Key};
use bytemuck::Zeroable as _;
use vnet_common::{
    address::Address,
    guard::{AddressHolder, AddressKey, GuestPort, Learned, Mac, MacKey, RouteKey},
    names::map,
};

use super::{
    Datapath, DatapathError,
    tables::{absent_is_fine, failed, is_absent},
};
use crate::{
    definition::MacAddress,
    plan::{GuardTables, GuestRouteKey},
};

const ANY: u64 = 0;
const NOEXIST: u64 = 1;

impl Datapath {
    /// Enters what is new or another value. Comes before a port's program is attached, which lets
    /// nothing pass without.
    pub fn enter_guard(&mut self, new: &GuardTables) -> Result<(), DatapathError> {
        let old = &self.guard;
        let routes = changed(&old.routes, &new.routes);
        let addresses = changed(&old.addresses, &new.addresses);
        let macs = changed(&old.macs, &new.macs);
        let ports = changed(&old.ports, &new.ports);
        // First, so that what a failure leaves in the maps is known.
        self.guard.routes.extend(&routes);
        self.guard.addresses.extend(&addresses);
        self.guard.macs.extend(&macs);
        self.guard.ports.extend(&ports);

        let mut map: LpmTrie<_, RouteKey, Address> = self.map(map::GUARD_ROUTES)?;
        for (key, gateway) in &routes {
            map.insert(&route_key(key), gateway, ANY).map_err(failed(map::GUARD_ROUTES))?;
        }
        let mut map: HashMap<_, AddressKey, AddressHolder> = self.map(map::GUARD_ADDRESSES)?;
        for (key, holder) in &addresses {
            map.insert(key, holder, ANY).map_err(failed(map::GUARD_ADDRESSES))?;
        }
        let mut map: HashMap<_, MacKey, u32> = self.map(map::GUARD_MACS)?;
        for (key, port) in &macs {
            map.insert(key, port, ANY).map_err(failed(map::GUARD_MACS))?;
        }
        let mut map: HashMap<_, u32, Learned> = self.map(map::GUARD_LEARNED)?;
        for port in ports.keys() {
            match map.insert(port, Learned::zeroed(), NOEXIST) {
                Err(error) if !is_present(&error) => {
                    return Err(failed(map::GUARD_LEARNED)(error));
                }
                _ => {}
            }
        }
        let mut map: HashMap<_, u32, GuestPort> = self.map(map::GUARD_PORTS)?;
        for (port, entry) in &ports {
            map.insert(port, entry, ANY).map_err(failed(map::GUARD_PORTS))?;
        }
        Ok(())
    }

    /// Removes what is not there any more, and what was learned at ports that are gone. Comes after
    /// their programs are taken off.
    pub fn leave_guard(&mut self, new: &GuardTables) -> Result<(), DatapathError> {
        let old = &self.guard;
        let ports = gone(&old.ports, &new.ports);
        let (macs, addresses) = (gone(&old.macs, &new.macs), gone(&old.addresses, &new.addresses));
        let routes = gone(&old.routes, &new.routes);

        let mut map: HashMap<_, u32, GuestPort> = self.map(map::GUARD_PORTS)?;
        for port in &ports {
            absent_is_fine(map.remove(port), map::GUARD_PORTS)?;
        }
        self.forget_learned(&ports)?;
        let mut map: HashMap<_, MacKey, u32> = self.map(map::GUARD_MACS)?;
        for key in &macs {
            absent_is_fine(map.remove(key), map::GUARD_MACS)?;
        }
        let mut map: HashMap<_, AddressKey, AddressHolder> = self.map(map::GUARD_ADDRESSES)?;
        for key in &addresses {
            absent_is_fine(map.remove(key), map::GUARD_ADDRESSES)?;
        }
        let mut map: LpmTrie<_, RouteKey, Address> = self.map(map::GUARD_ROUTES)?;
        for key in &routes {
            absent_is_fine(map.remove(&route_key(key)), map::GUARD_ROUTES)?;
        }
        self.guard = new.clone();
        Ok(())
    }

    /// What userspace has entered into the maps of a datapath that is taken over, not what its programs
    /// have learned.
    pub(super) fn read_guard(&mut self) -> Result<(), DatapathError> {
        let mut guard = GuardTables::default();
        let ports: HashMap<_, u32, GuestPort> = self.map(map::GUARD_PORTS)?;
        for entry in &ports {
            let (port, entry) = entry.map_err(failed(map::GUARD_PORTS))?;
            guard.ports.insert(port, entry);
        }
        let mut learned = BTreeSet::new();
        let map: HashMap<_, u32, Learned> = self.map(map::GUARD_LEARNED)?;
        for entry in map.iter().flatten() {
            learned.insert((entry.0, entry.1.mac));
        }
        let map: HashMap<_, MacKey, u32> = self.map(map::GUARD_MACS)?;
        // A guest may learn while this runs, which ends a walk early; what is missed only stays.
        for (key, port) in map.iter().flatten() {
            if !learned.contains(&(port, key.mac.to_word())) {
                guard.macs.insert(key, port);
            }
        }
        let map: HashMap<_, AddressKey, AddressHolder> = self.map(map::GUARD_ADDRESSES)?;
        for (key, holder) in map.iter().flatten().filter(|(_, holder)| holder.learned_at == 0) {
            guard.addresses.insert(key, holder);
        }
        let map: LpmTrie<_, RouteKey, Address> = self.map(map::GUARD_ROUTES)?;
        for (key, gateway) in map.iter().flatten() {
            let RouteKey { bridge, address } = key.data();
            let prefix = bytemuck::cast(address.to_wire());
            guard.routes.insert((key.prefix_len(), bridge, prefix), gateway);
        }
        self.guard = guard;
        Ok(())
    }

    /// The MAC addresses that were learned at ports whose guests are not known.
    pub fn learned_macs(&mut self) -> Result<BTreeMap<u32, MacAddress>, DatapathError> {
        let ports: Vec<u32> = self.guard.ports.keys().copied().collect();
        let map: HashMap<_, u32, Learned> = self.map(map::GUARD_LEARNED)?;
        let mut found = BTreeMap::new();
        for port in ports {
            match map.get(&port, 0) {
                Ok(learned) if learned.mac != 0 => {
                    found.insert(port, MacAddress(Mac::from_word(learned.mac).to_bytes()));
                }
                Err(error) if !is_absent(&error) => {
                    return Err(failed(map::GUARD_LEARNED)(error));
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// A recycled address belongs to whoever uses it next.
    fn forget_learned(&mut self, ports: &BTreeSet<u32>) -> Result<(), DatapathError> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut map: HashMap<_, u32, Learned> = self.map(map::GUARD_LEARNED)?;
        for port in ports {
            absent_is_fine(map.remove(port), map::GUARD_LEARNED)?;
        }
        let mut map: HashMap<_, MacKey, u32> = self.map(map::GUARD_MACS)?;
        // A guest may learn while this runs, which ends the walk early; the next one goes on.
        let macs: Vec<_> = map.iter().flatten().filter(|(_, port)| ports.contains(port)).collect();
        for (key, _) in macs {
            absent_is_fine(map.remove(&key), map::GUARD_MACS)?;
        }
        let mut map: HashMap<_, AddressKey, AddressHolder> = self.map(map::GUARD_ADDRESSES)?;
        let at = |holder: &AddressHolder| ports.contains(&holder.learned_at);
        let held: Vec<_> = map.iter().flatten().filter(|(_, holder)| at(holder)).collect();
        for (key, _) in held {
            absent_is_fine(map.remove(&key), map::GUARD_ADDRESSES)?;
        }
        Ok(())
    }
}

fn route_key(&(length, bridge, address): &GuestRouteKey) -> Key<RouteKey> {
    Key::new(length, RouteKey { bridge, address: Address::from_wire(bytemuck::cast(address)) })
}

fn changed<K: Ord + Copy, V: PartialEq + Copy>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    changed.map(|(key, value)| (*key, *value)).collect()
}

fn gone<K: Ord + Copy, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> BTreeSet<K> {
    old.keys().filter(|key| !new.contains_key(key)).copied().collect()
}

fn is_present(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error)
        if error.io_error.raw_os_error() == Some(libc::EEXIST))
}
