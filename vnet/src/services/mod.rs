//! What guests ask the host for: addresses and names.

pub mod dnsmasq;
mod others;

pub use others::{Port, taken_port};
