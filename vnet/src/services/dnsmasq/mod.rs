//! dnsmasq: DHCP, router advertisements and DNS for a network's guests, unless somebody else serves
//! them.

mod config;
mod files;
mod hosts;
mod process;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, Files, is_wanted, text};
pub use files::file_stem;
pub use hosts::{records, reserved};
pub use process::{Change, Directories, DnsmasqError, Service, is_installed, is_running};
