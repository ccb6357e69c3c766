//! Virtual machines in QEMU as guests: another kernel, its virtio NIC, QEMU's tap, and an address by
//! DHCP from the dnsmasq that vnet runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod path_mtu;
mod site;
mod transfers;
