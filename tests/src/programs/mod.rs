//! One packet in, everything that becomes of it out: the BPF programs under `BPF_PROG_TEST_RUN`.
//!
//! A [`Rig`] is a namespace with a host's interfaces, routes and neighbours, the loaded object and
//! filled maps. Each run checks that the tables agree with each other.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "only tests call this, and what is not as they say fails them"
)]

mod configured;
mod counters;
pub mod guard;
mod host_flows;
pub(crate) mod load;
pub mod modes;
mod outcome;
mod packet;
mod paths;
mod race;
mod rig;
mod run;
mod scale;
pub mod shortcut;
mod tables;
mod time;

pub use counters::{Counted, counted};
pub use load::Plain;
pub use outcome::{Outcome, Verdict};
pub use packet::{
    Body, Extension, Packet, dccp, echo_reply, echo_request, hex, icmp_error, raw, rejection, sctp,
    sent_back, tcp, udp, udp_lite, unreachable, unreachable_packet,
};
pub use race::{Racer, Work};
pub use rig::{
    EXTERNAL, GATEWAY, GUEST, NETWORK, OTHER_NETWORK, REMOTE, Rig, address, ipv4, with_large_rig,
    with_rig,
};
pub(crate) use run::context_at;
pub use run::{Arrival, Origin};
pub use tables::Tables;
