//! The lab: hosts, guests and wires in private network namespaces.

mod background;
mod capture;
mod error;
mod guest;
mod host_state;
mod libvirt;
mod link;
mod namespace;
mod node;
mod packet;
mod picture;
mod process;
mod require_kernel;
mod require_root;
pub mod services;
mod snmp;
mod standard;
mod steady;
mod tap;
mod teardown;
mod topology;

pub use background::wait_until;
pub use capture::{Capture, listing, write_pcap};
pub use error::{Error, Result};
pub use guest::{End, Guest, PortKind};
pub use host_state::HostState;
pub use libvirt::{Libvirt, require_libvirt};
pub use namespace::{Ipv6Noise, Namespace};
pub use node::{Node, Role};
pub use packet::{CapturedPacket, Checksum, SegmentKind, Segmentation};
pub use process::{DEFAULT_DEADLINE, Output, Running, killed_by};
pub use require_kernel::{require_bonding, require_esp, require_gre, require_sctp, require_vlan};
pub use require_root::require_root;
pub use standard::StandardLab;
pub use steady::{SteadyOpening, SteadyReport, SteadyTcp, SteadyUdp};
pub use topology::Lab;
