//! The tables of the datapath as a whole, and what has to hold between them after every packet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::LpmTrie;
use bytemuck::Zeroable as _;
use vnet_common::{
    address::{Address, PortBe},
    flow::{
        ExternalPort, FLAG_FROM_OUTSIDE, FLAG_UNMAPPED, FlowKey4, FlowKey6, FlowSlot, GuestUsage,
        Mapping, MappingKey, Phase, PortHolder, Session, SessionCursor,
    },
    forward::{FORWARD_KEY_BITS, FORWARD_KEY_BYTES, Forward, ForwardKey},
    names::map,
    port_map::{self, Place, PortMap},
};

use super::load::{self, Plain};

/// All tables.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Slots that were ever used, by index.
    pub sessions: BTreeMap<u32, Session>,
    /// The flow table of IPv4.
    pub flows: Vec<(FlowKey4, FlowSlot)>,
    /// The flow table of IPv6.
    pub flows_ipv6: Vec<(FlowKey6, FlowSlot)>,
    /// Mappings.
    pub mappings: Vec<(MappingKey, Mapping)>,
    /// Holders of external ports.
    pub ports: Vec<(ExternalPort, PortHolder)>,
    /// Which ports look taken to a search.
    pub port_maps: Vec<(ExternalPort, PortMap)>,
    /// What new ones of them begin with: of queries, and of protocols with ports.
    pub reserved_ports: Vec<PortMap>,
    /// Prefixes of forwarded ports, with their length in bits.
    pub forwards: Vec<(u32, ForwardKey)>,
    /// Accounts of guests.
    pub guests: Vec<(Address, GuestUsage)>,
    /// Session slots on the account of each network.
    pub network_flows: Vec<u64>,
    /// Where the next slot comes from.
    pub cursor: SessionCursor,
}

impl Tables {
    pub(crate) fn read(ebpf: &Ebpf) -> Result<Self> {
        let cursor = load::array::<SessionCursor>(ebpf, map::SESSION_CURSOR)?.get(&0, 0)?.0;
        let slots = load::array::<Session>(ebpf, map::SESSIONS)?;
        let mut sessions = BTreeMap::new();
        for index in 0..cursor.fresh.min(u64::from(slots.len())) as u32 {
            sessions.insert(index, slots.get(&index, 0)?.0);
        }
        Ok(Self {
            sessions,
            flows: entries(ebpf, map::FLOWS)?,
            flows_ipv6: entries(ebpf, map::FLOWS_IPV6)?,
            mappings: entries(ebpf, map::MAPPINGS)?,
            ports: entries(ebpf, map::EXTERNAL_PORTS)?,
            port_maps: entries(ebpf, map::PORT_MAPS)?,
            reserved_ports: array(ebpf, map::RESERVED_PORTS)?,
            forwards: forwards(ebpf)?,
            guests: entries(ebpf, map::GUESTS)?,
            network_flows: array(ebpf, map::NETWORK_FLOWS)?,
            cursor,
        })
    }

    /// The sessions that packets may use.
    pub fn live(&self) -> impl Iterator<Item = (u32, &Session)> {
        let live = |session: &Session| session.phase == Phase::Live as u32;
        self.sessions.iter().map(|(&index, session)| (index, session)).filter(move |(_, s)| live(s))
    }

    /// The only live session.
    #[must_use]
    #[track_caller]
    pub fn only(&self) -> Session {
        let live: Vec<_> = self.live().collect();
        assert_eq!(live.len(), 1, "live sessions: {live:#?}");
        *live[0].1
    }

    /// The external port of the live session of an inside port.
    #[must_use]
    #[track_caller]
    pub fn external_port_of(&self, inside_port: u16) -> u16 {
        let mut of_port = self.live().filter(|(_, s)| s.inside_port.to_host() == inside_port);
        let (_, session) = of_port.next().expect("a live session of that inside port");
        session.external_port.to_host()
    }

    /// What has to hold at any time: both legs of each live flow and no others, one reference on a
    /// mapping and one on the guest's account per live flow, one held port per mapping.
    pub fn check(&self) -> Result<()> {
        let (mut legs, mut legs_ipv6) = (Vec::new(), Vec::new());
        for (index, session) in self.live() {
            let slot = FlowSlot { index, generation: session.generation };
            if session.is_ipv4() {
                legs.extend([(session.outbound_key(), slot), (session.inbound_key(), slot)]);
            } else {
                let keys = [session.outbound_key_ipv6(), session.inbound_key_ipv6()];
                legs_ipv6.extend(keys.map(|key| (key, slot)));
            }
        }
        check_legs(&legs, &self.flows)?;
        check_legs(&legs_ipv6, &self.flows_ipv6)?;
        for (key, mapping) in &self.mappings {
            let uses = |session: &Session| is_mapped(session) && mapping_key(session) == *key;
            let flows = self.live().filter(|(_, session)| uses(session));
            let references = flows.count() as u64;
            ensure!(mapping.references == references, "{references} flows use {mapping:#?}");
            let own = self.live().filter(|(_, session)| uses(session) && session.answered != 0);
            let own = own.count() as u64;
            ensure!(mapping.own == own, "{own} flows of the inside keep {mapping:#?} open");
            let held_down =
                |s: &Session| s.phase == Phase::HoldDown as u32 && mapping_key(s) == *key;
            ensure!(
                references > 0 || self.sessions.values().any(held_down),
                "nobody will ever free {mapping:#?}"
            );
            let held = ExternalPort {
                external: key.external,
                port: mapping.external_port,
                protocol: key.protocol,
                reserved: 0,
            };
            let inside_port = key.inside_port;
            let is_holder = |holder: &PortHolder| {
                holder.inside == key.inside && holder.inside_port == inside_port
            };
            ensure!(
                self.ports.iter().any(|(port, holder)| *port == held && is_holder(holder)),
                "{held:#?} is not held for {key:#?}"
            );
        }
        ensure!(self.ports.len() == self.mappings.len(), "ports without mapping: {self:#?}");
        for (_, session) in self.live().filter(|(_, session)| is_mapped(session)) {
            let key = mapping_key(session);
            ensure!(self.mappings.iter().any(|(other, _)| *other == key), "no mapping {key:#?}");
        }
        self.check_accounts()?;
        self.check_port_maps()
    }

    /// Each guest's flows and ports, and each network's slots, are on its account.
    fn check_accounts(&self) -> Result<()> {
        for (guest, usage) in &self.guests {
            let flows = self.live().filter(|(_, session)| session.inside == *guest).count() as u32;
            ensure!(usage.flows == flows, "{} has {flows} flows: {usage:?}", guest.to_addr());
            let is_from_outside =
                |s: &Session| s.inside == *guest && s.flags & FLAG_FROM_OUTSIDE != 0;
            let strangers = self.live().filter(|(_, s)| is_from_outside(s)).count() as u64;
            ensure!(usage.from_outside == strangers, "{strangers} of strangers: {usage:?}");
            let ports = self.mappings.iter().filter(|(key, _)| key.inside == *guest).count() as u32;
            ensure!(usage.ports == ports, "{} has {ports} ports: {usage:?}", guest.to_addr());
            ensure!(usage.inside == *guest, "{} is on another's account", guest.to_addr());
            ensure!(flows + ports > 0, "{} has an account for nothing", guest.to_addr());
        }
        let holders = self.live().map(|(_, session)| session.inside);
        for guest in holders.chain(self.mappings.iter().map(|(key, _)| key.inside)) {
            let has_account = self.guests.iter().any(|(other, _)| *other == guest);
            ensure!(has_account, "{} has no account", guest.to_addr());
        }
        for (slot, used) in self.network_flows.iter().enumerate() {
            let is_its_own = |session: &&Session| {
                usize::from(session.network) == slot && session.phase != Phase::Free as u32
            };
            let count = self.sessions.values().filter(is_its_own).count() as u64;
            ensure!(*used == count, "network {slot} uses {count} slots, not {used}");
        }
        Ok(())
    }

    /// The ports that look taken are those that are held, and reserved and forwarded ones; the full words are those that look full.
    pub fn check_port_maps(&self) -> Result<()> {
        for (key, map) in &self.port_maps {
            let of_key = |port: &ExternalPort| port.port_map() == *key;
            let held: BTreeSet<u16> = self
                .ports
                .iter()
                .filter(|(port, _)| of_key(port))
                .map(|(p, _)| p.port.to_host())
                .collect();
            let mut full = PortMap::zeroed().full;
            for (word, taken) in (0..).zip(map.taken) {
                let place = Place::of_word(word);
                full[place.word as usize] |= if taken == u64::MAX { place.bit } else { 0 };
            }
            ensure!(map.full == full, "other words look full than are of {key:?}");
            for port in 0..=u16::MAX {
                let place = Place::of_port(port);
                let is_taken = map.taken[place.word as usize] & place.bit != 0;
                let is_hosts = || self.is_reserved(key, port) || self.is_forwarded(key, port);
                let agrees = is_taken == held.contains(&port) || (is_taken && is_hosts());
                ensure!(agrees, "port {port} of {key:?} looks taken: {is_taken}");
            }
        }
        Ok(())
    }

    fn is_reserved(&self, of: &ExternalPort, port: u16) -> bool {
        let place = Place::of_port(port);
        let reserved = &self.reserved_ports[port_map::reserved_ports_of(of.protocol) as usize];
        reserved.taken[place.word as usize] & place.bit != 0
    }

    fn is_forwarded(&self, of: &ExternalPort, port: u16) -> bool {
        self.forwards.iter().any(|(bits, forward)| {
            let shift = FORWARD_KEY_BITS - bits;
            forward.external == of.external
                && forward.protocol == of.protocol
                && u32::from(forward.port.to_host()) >> shift == u32::from(port) >> shift
        })
    }

    /// The mapping of an inside port.
    #[must_use]
    pub fn mapping_of(&self, inside_port: u16) -> Option<Mapping> {
        let inside_port = PortBe::from_host(inside_port);
        self.mappings.iter().find(|(key, _)| key.inside_port == inside_port).map(|(_, one)| *one)
    }
}

fn check_legs<K>(legs: &[(K, FlowSlot)], table: &[(K, FlowSlot)]) -> Result<()>
where
    K: Debug + PartialEq,
{
    ensure!(legs.len() == table.len(), "legs {legs:#?}\ntable {table:#?}");
    for leg in legs {
        ensure!(table.contains(leg), "{leg:#?} is not in the table {table:#?}");
    }
    Ok(())
}

fn is_mapped(session: &Session) -> bool {
    session.flags & FLAG_UNMAPPED == 0
}

fn mapping_key(session: &Session) -> MappingKey {
    MappingKey {
        inside: session.inside,
        external: session.external,
        inside_port: session.inside_port,
        protocol: session.protocol,
        reserved: 0,
    }
}

fn array<V: bytemuck::Pod>(ebpf: &Ebpf, name: &str) -> Result<Vec<V>> {
    let array = load::array::<V>(ebpf, name)?;
    (0..array.len()).map(|index| Ok(array.get(&index, 0)?.0)).collect()
}

fn forwards(ebpf: &Ebpf) -> Result<Vec<(u32, ForwardKey)>> {
    let map = ebpf.map(map::FORWARDS).context("no map of forwards")?;
    let forwards = LpmTrie::<_, [u8; FORWARD_KEY_BYTES], Plain<Forward>>::try_from(map)?;
    let mut found = Vec::new();
    for key in forwards.keys() {
        let key = key?;
        let data: ForwardKey = bytemuck::cast(key.data());
        // The other generation says the same.
        if data.generation == 0 {
            found.push((key.prefix_len(), data));
        }
    }
    Ok(found)
}

fn entries<K: bytemuck::Pod, V: bytemuck::Pod>(ebpf: &Ebpf, name: &str) -> Result<Vec<(K, V)>> {
    load::hash::<K, V>(ebpf, name)?
        .iter()
        .map(|entry| entry.map(|(key, value)| (key.0, value.0)).map_err(Into::into))
        .collect()
}
