//! Types that cross the border between vnet's BPF programs and its userspace, and the pure logic
//! that both sides and the tests share.
//!
//! Every map key and value is `#[repr(C)]`, [`bytemuck::Pod`] and free of implicit padding, so that
//! both sides agree on each byte. Values in wire (network) byte order have types that say so:
//! [`address::PortBe`], [`address::Ipv4Be`], [`address::Address`].
#![no_std]

pub mod address;
pub mod checksum;
pub mod family;
pub mod flow;
pub mod former;
pub mod forward;
pub mod generator;
pub mod guard;
pub mod icmp;
pub mod limits;
#[cfg(feature = "user")]
mod map_element;
pub mod migration;
pub mod minimum;
pub mod names;
pub mod network;
pub mod path;
pub mod policy;
pub mod port;
pub mod port_map;
pub mod reason;
pub mod shortcut;
pub mod tcp;
pub mod timeout;
