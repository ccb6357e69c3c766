//! Networks of every mode on one host with two uplinks, and what probes between them find.

mod arrivals;
mod expected;
pub mod frame;
mod grid;
mod libvirt;
mod network;
mod rig;
mod unsolicited;

pub use arrivals::Arrivals;
pub use expected::{Cell, Expected};
pub use grid::Findings;
pub use libvirt::libvirt_rules;
pub use network::{Forward, Net};
pub use rig::{Place, Rig, Uplink, nine_networks};
pub use unsolicited::{Kind, Unsolicited};
