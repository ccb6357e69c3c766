//! What is known of guests: their MAC addresses, and the IP addresses that are theirs.

mod duid;
pub mod known;
pub mod leases;
pub mod watch;

pub use known::Known;
pub use leases::Lease;
pub use watch::LeaseWatch;
