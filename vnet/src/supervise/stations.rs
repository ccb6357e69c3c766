//! What the bridges know of stations, as it is entered for the programs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use vnet_common::{
    guard::{Mac, MacKey},
    limits,
    shortcut::{BridgePort, PORT_IS_UPLINK},
};

use crate::host::forwarding_database::{Event, Station};

/// What is to be entered: the port of a station, or none for one that goes.
pub(super) type Entries = BTreeMap<MacKey, Option<u32>>;

/// The stations that are entered.
#[derive(Debug, Default)]
pub(super) struct Stations {
    /// The ports of their bridges.
    entered: HashMap<MacKey, u32>,
    counts: HashMap<u32, usize>,
    /// The ports that stations may be at.
    ports: BTreeMap<u32, BridgePort>,
    has_said_full: bool,
}

impl Stations {
    /// What an earlier process has entered.
    pub fn of(entered: HashMap<MacKey, u32>) -> Self {
        let mut stations = Self::default();
        stations.set_entered(entered);
        stations
    }

    /// Goes on with what is entered.
    pub fn set_entered(&mut self, entered: HashMap<MacKey, u32>) {
        self.counts.clear();
        for port in entered.values() {
            *self.counts.entry(*port).or_default() += 1;
        }
        self.entered = entered;
    }

    /// Goes on with other ports. The bridges that have to be read again.
    pub fn set_ports(&mut self, ports: &BTreeMap<u32, BridgePort>) -> BTreeSet<u32> {
        let places = |ports: &BTreeMap<u32, BridgePort>| -> BTreeSet<_> {
            ports.iter().map(|(port, at)| (*port, at.bridge)).collect()
        };
        let (before, now) = (places(&self.ports), places(ports));
        self.ports.clone_from(ports);
        before.symmetric_difference(&now).map(|(_, bridge)| *bridge).collect()
    }

    /// The bridges that stations are at, or may be.
    pub fn bridges(&self) -> BTreeSet<u32> {
        let entered = self.entered.keys().map(|key| key.bridge);
        self.ports.values().map(|at| at.bridge).chain(entered).collect()
    }

    /// Makes the entries what these bridges know now, or all.
    pub fn reconcile(&mut self, known: &[Station], bridges: Option<&BTreeSet<u32>>) -> Entries {
        let known: HashMap<MacKey, u32> =
            known.iter().map(|station| (key(station), station.port)).collect();
        let mut entries = Entries::new();
        let is_of = |key: &MacKey| bridges.is_none_or(|bridges| bridges.contains(&key.bridge));
        let entered = self.entered.keys().copied();
        let gone: Vec<_> = entered.filter(|key| is_of(key) && !known.contains_key(key)).collect();
        for key in gone {
            self.leave(key, &mut entries);
        }
        for (key, port) in known {
            self.enter(key, port, &mut entries);
        }
        entries
    }

    /// What a change means. The bridge at which a station has moved to another port, if one has.
    pub fn note(&mut self, event: &Event, entries: &mut Entries) -> Option<u32> {
        match event {
            Event::Known(station) => {
                let has_moved = self.enter(key(station), station.port, entries);
                has_moved.then_some(station.bridge)
            }
            Event::Forgotten(station) => {
                self.leave(key(station), entries);
                None
            }
            Event::Neighbour { .. } | Event::TrafficControl { .. } | Event::Left { .. } => None,
        }
    }

    fn enter(&mut self, key: MacKey, port: u32, entries: &mut Entries) -> bool {
        let former = self.entered.get(&key).copied();
        // What the programs have seen of it stays.
        if former == Some(port) {
            return false;
        }
        self.leave(key, entries);
        let at = self.ports.get(&port).filter(|at| at.bridge == key.bridge && at.port == port);
        if let Some(at) = at {
            let limit = if at.flags & PORT_IS_UPLINK == 0 {
                limits::STATIONS_PER_GUEST
            } else {
                limits::STATIONS_PER_UPLINK
            };
            let count = self.counts.entry(port).or_default();
            if *count < limit && self.entered.len() < limits::STATIONS as usize {
                *count += 1;
                self.entered.insert(key, port);
                entries.insert(key, Some(port));
            } else if !self.has_said_full {
                self.has_said_full = true;
                log::warn!(
                    "port #{port} has {count} stations: packets of more of them take no short way"
                );
            }
        }
        former.is_some()
    }

    fn leave(&mut self, key: MacKey, entries: &mut Entries) {
        let Some(port) = self.entered.remove(&key) else { return };
        if let Some(count) = self.counts.get_mut(&port) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&port);
            }
        }
        entries.insert(key, None);
    }
}

fn key(station: &Station) -> MacKey {
    MacKey::new(station.bridge, Mac::from_bytes(station.mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 3;

    fn station(port: u32, last: u16) -> Station {
        let [high, low] = last.to_be_bytes();
        Station { bridge: BRIDGE, port, mac: [0x52, 0x54, 0, 0, high, low] }
    }

    fn stations() -> Stations {
        let mut stations = Stations::default();
        let port = |port| (port, BridgePort { bridge: BRIDGE, port, flags: 0, ageing_ms: 300_000 });
        assert_eq!(stations.set_ports(&[port(5), port(6)].into()), [BRIDGE].into());
        assert_eq!(stations.set_ports(&[port(5), port(6)].into()), [].into());
        stations
    }

    fn note(stations: &mut Stations, event: Event) -> (Entries, bool) {
        let mut entries = Entries::new();
        let has_moved = stations.note(&event, &mut entries);
        (entries, has_moved.is_some())
    }

    #[test]
    fn station_is_entered_once_and_again_where_it_has_moved_to() {
        let mut stations = stations();
        let (one, moved, away) = (station(5, 1), station(6, 1), station(9, 1));
        let entered = |port| Entries::from([(key(&one), port)]);
        assert_eq!(note(&mut stations, Event::Known(one)), (entered(Some(5)), false));
        assert_eq!(note(&mut stations, Event::Known(one)), (Entries::new(), false));
        assert_eq!(note(&mut stations, Event::Known(moved)), (entered(Some(6)), true));
        // To a port that has no short way.
        assert_eq!(note(&mut stations, Event::Known(away)), (entered(None), true));
        assert_eq!(note(&mut stations, Event::Known(one)), (entered(Some(5)), false));
        assert_eq!(note(&mut stations, Event::Forgotten(one)), (entered(None), false));
        assert_eq!(note(&mut stations, Event::Forgotten(one)), (Entries::new(), false));
        // Of a bridge that is nobody's.
        let other = Station { bridge: 4, ..one };
        assert_eq!(note(&mut stations, Event::Known(other)), (Entries::new(), false));
    }

    #[test]
    fn guest_that_makes_up_addresses_has_room_for_some_and_leaves_others_theirs() {
        let mut stations = stations();
        let mut entries = Entries::new();
        for number in 0..3000 {
            stations.note(&Event::Known(station(5, number)), &mut entries);
        }
        assert_eq!(entries.len(), limits::STATIONS_PER_GUEST);
        assert_eq!(note(&mut stations, Event::Known(station(6, 7000))).0.len(), 1);
        // What goes makes room.
        assert_eq!(note(&mut stations, Event::Forgotten(station(5, 0))).0.len(), 1);
        assert_eq!(note(&mut stations, Event::Known(station(5, 2999))).0.len(), 1);
        assert_eq!(note(&mut stations, Event::Known(station(5, 2998))).0.len(), 0);
    }

    #[test]
    fn what_an_earlier_process_has_entered_stays_as_far_as_it_is_so() {
        let former = [(key(&station(5, 1)), 5), (key(&station(5, 2)), 5), (key(&station(5, 3)), 5)];
        let mut stations = Stations { ports: stations().ports, ..Stations::of(former.into()) };
        let entries = stations.reconcile(&[station(5, 1), station(6, 2), station(6, 4)], None);
        let expected = [
            (key(&station(6, 2)), Some(6)),
            (key(&station(5, 3)), None),
            (key(&station(6, 4)), Some(6)),
        ];
        assert_eq!(entries, Entries::from(expected));
        assert_eq!(stations.counts, HashMap::from([(5, 1), (6, 2)]));
        // Of other bridges nothing was read.
        assert_eq!(stations.reconcile(&[], Some(&[BRIDGE + 1].into())), Entries::new());
        assert_eq!(stations.bridges(), [BRIDGE].into());
    }
}
