//! The flows that are translated now.

mod filter;
mod table;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::IpAddr, time::Duration};

use nix::time::{ClockId, clock_gettime};
use serde::{Serialize, Serializer};
use vnet_common::{
    address::{Address, PortBe},
    flow::{FLAG_FORWARDED, FLAG_FROM_OUTSIDE, FLAG_HAIRPIN, Session, protocol},
    tcp,
};

pub use filter::{Filter, Sort};
pub use table::table;

use super::{Counts, Protocol, ReportError, pinned::PinnedMaps, sessions::Sessions};
use crate::instance::{Name, State};

/// A flow and its account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Its IP protocol.
    pub protocol: Protocol,
    /// The guest's end.
    pub inside: Endpoint,
    /// What the remote sees instead of it.
    pub outside: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// Whether a port forward let it in.
    pub forwarded: bool,
    /// Whether the remote has sent first.
    pub from_outside: bool,
    /// Whether the remote is the host's own address and stands for another guest.
    pub hairpin: bool,
    /// What was seen of it.
    #[serde(serialize_with = "state_name")]
    pub state: tcp::State,
    /// Since its first packet.
    #[serde(rename = "age_ms", serialize_with = "milliseconds")]
    pub age: Duration,
    /// Since its last packet in either direction.
    #[serde(rename = "idle_ms", serialize_with = "milliseconds")]
    pub idle: Duration,
    /// From the guest.
    pub outbound: Counts,
    /// To the guest.
    pub inbound: Counts,
    /// The guest's network.
    pub network: String,
    /// The interface towards the remote.
    pub uplink: String,
}

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port, if the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The identifier of its ICMP queries; the remote has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identifier: Option<u16>,
}

/// Reads the flows of an instance that pass the filter, in its order.
pub fn read(name: &Name, filter: &Filter) -> Result<Vec<Flow>, ReportError> {
    let state = super::state(name)?;
    filter.check(&state)?;
    let sessions = Sessions::open(&PinnedMaps::of(&state))?;
    let reader = Reader { names: Names::of(&state), now: monotonic_now() };
    let flows = sessions.live().map(|session| reader.flow(&session));
    Ok(filter.apply(flows))
}

/// Names of what sessions have numbers for.
struct Names<'a> {
    networks: HashMap<u16, &'a str>,
    uplinks: HashMap<u32, &'a str>,
}

impl<'a> Names<'a> {
    fn of(state: &'a State) -> Self {
        let networks = state.networks.iter().map(|network| (network.slot, network.name.as_str()));
        let uplinks =
            state.uplinks.iter().map(|uplink| (uplink.ifindex, uplink.interface.as_str()));
        // The remote may be a guest of another network.
        let bridges =
            state.networks.iter().map(|network| (network.bridge_ifindex, network.bridge.as_str()));
        Self { networks: networks.collect(), uplinks: bridges.chain(uplinks).collect() }
    }

    /// A network that was removed has a number only.
    fn network(&self, slot: u16) -> String {
        self.networks.get(&slot).map_or_else(|| format!("#{slot}"), |name| (*name).to_owned())
    }

    /// Likewise.
    fn uplink(&self, ifindex: u32) -> String {
        self.uplinks.get(&ifindex).map_or_else(|| format!("#{ifindex}"), |name| (*name).to_owned())
    }
}

struct Reader<'a> {
    names: Names<'a>,
    now: u64,
}

impl Reader<'_> {
    fn flow(&self, session: &Session) -> Flow {
        let end = |address, port| endpoint(session.protocol, address, port);
        let remote = Endpoint { identifier: None, ..end(session.remote, session.remote_port) };
        let since = |then: u64| Duration::from_nanos(self.now.saturating_sub(then));
        Flow {
            protocol: Protocol(session.protocol),
            inside: end(session.inside, session.inside_port),
            outside: end(session.external, session.external_port),
            remote,
            forwarded: session.flags & FLAG_FORWARDED != 0,
            from_outside: session.flags & FLAG_FROM_OUTSIDE != 0,
            hairpin: session.flags & FLAG_HAIRPIN != 0,
            state: tcp::State::from_byte(session.state),
            age: since(session.since),
            idle: since(session.last_outbound.max(session.last_inbound)),
            outbound: session.outbound.into(),
            inbound: session.inbound.into(),
            network: self.names.network(session.network),
            uplink: self.names.uplink(session.uplink_ifindex),
        }
    }
}

fn endpoint(ip_protocol: u8, address: Address, port: PortBe) -> Endpoint {
    let address = address.to_addr();
    let (port, identifier) = match ip_protocol {
        protocol::ICMP | protocol::ICMPV6 => (None, Some(port.to_host())),
        _ if port == PortBe::NONE => (None, None),
        _ => (Some(port.to_host()), None),
    };
    Endpoint { address, port, identifier }
}

/// The clock of the programs, in nanoseconds.
fn monotonic_now() -> u64 {
    // The clock exists on every Linux; 0 would only show all ages as 0.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn state_name<S: Serializer>(state: &tcp::State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

fn milliseconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
