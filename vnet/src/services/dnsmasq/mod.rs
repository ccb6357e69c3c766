//! dnsmasq: DHCP, router advertisements and DNS for a network's guests, unless somebody else serves
//! them.

mod config;
mod hosts;
mod process;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, Files, is_wanted, text};
pub use hosts::{records, reserved};
pub use process::{Change, Directories, DnsmasqError, Service};
