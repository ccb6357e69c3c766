//! 802.1Q: tagged uplinks, tagged frames through bridged networks, `<vlan>` on bridges that filter,
//! priority tags. These tests need a kernel with VLAN devices and VLAN-filtering bridges: `cargo xtask test --vm vlan`.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod bridged;
mod members;
mod ports;
mod priority;
mod support;
mod uplink;
