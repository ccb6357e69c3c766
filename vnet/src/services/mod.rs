//! What guests ask the host for: addresses and names.
//!
//! [`plan`] says which networks want a service, [`Supervisor::apply`] makes it so, and
//! [`Supervisor::wait`] and [`Supervisor::tend`] keep it so.

mod backoff;
mod change;
pub mod dnsmasq;
mod libvirt;
mod others;
mod served;
mod state;
mod supervisor;
mod wanted;

pub use change::{Change, What};
pub use libvirt::{DEFINITIONS as LIBVIRT_DEFINITIONS, LibvirtBridges};
pub use others::{Port, taken_port};
pub use state::{Offer, ServedBy, ServiceState};
pub use supervisor::{Due, Supervisor};
pub use wanted::{Wanted, plan};
