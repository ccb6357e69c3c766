//! The tables of the datapath as a whole, and what has to hold between them after every packet.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Result, ensure};
use aya::Ebpf;
use vnet_common::{
    address::{Address, PortBe},
    flow::{
        ExternalPort, FLAG_UNMAPPED, FlowKey4, FlowKey6, FlowSlot, GuestUsage, Mapping, MappingKey,
        Phase, PortHolder, Session, SessionCursor,
    },
    names::map,
};

use super::load;

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
    /// Accounts of guests.
    pub guests: Vec<(Address, GuestUsage)>,
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
            guests: entries(ebpf, map::GUESTS)?,
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
            let users = self.live().filter(|(_, session)| uses(session));
            let references = users.count() as u64;
            ensure!(mapping.references == references, "{references} flows use {mapping:#?}");
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
        for (guest, usage) in &self.guests {
            let flows = self.live().filter(|(_, session)| session.inside == *guest).count() as u64;
            ensure!(usage.flows == flows, "{} has {flows} flows: {usage:?}", guest.to_addr());
        }
        Ok(())
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

fn entries<K: bytemuck::Pod, V: bytemuck::Pod>(ebpf: &Ebpf, name: &str) -> Result<Vec<(K, V)>> {
    load::hash::<K, V>(ebpf, name)?
        .iter()
        .map(|entry| entry.map(|(key, value)| (key.0, value.0)).map_err(Into::into))
        .collect()
}
