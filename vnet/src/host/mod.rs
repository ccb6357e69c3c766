//! The host that the loader runs on: what it is made of, and what the loader may change there.
//!
//! Everything here acts on the network namespace of the calling thread, so it belongs on a
//! `current_thread` runtime: netlink sockets are bound to the namespace of the thread that opens
//! them, and `/proc/sys/net` shows that of the thread that reads it.
//!
//! The order that loses no change is [`watch()`] first, then [`snapshot()`]: whatever happens
//! during or after the snapshot is then reported by the watch.

pub mod address;
pub mod bpffs;
pub mod bridge;
pub mod bridge_port;
pub mod bridge_rules;
pub mod ethtool;
#[cfg(test)]
pub(crate) mod fake;
pub mod forwarding_database;
pub mod gateway_route;
mod generic;
pub mod indexed;
mod ipv6;
pub mod link;
pub mod listening;
pub mod netfilter;
pub mod netlink;
pub mod nftables;
pub mod privileges;
pub mod qdisc;
pub mod route;
pub mod snapshot;
pub mod sysctl;
pub mod traffic_control;
pub mod uplink;
pub mod watch;
pub mod xdp;

pub use address::InterfaceAddress;
pub use gateway_route::GatewayRoute;
pub use indexed::{Entry, Indexed};
pub use ipv6::Ipv6Settings;
pub use link::{Bond, BondMode, BridgePortSettings, Link, LinkKind, LinkLayer, Port, SpanningTree};
pub use netlink::NetlinkError;
pub use route::{Hop, Route};
pub use snapshot::{Snapshot, snapshot};
pub use uplink::{MasqueradeAddress, Reach, UplinkCandidate, uplinks};
pub use watch::{Change, Watch, WatchOptions, watch};
