//! vnet beside libvirt's own daemon: networks that it has defined, its bridges, its dnsmasq, its rules.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod nat;
mod open;
mod route;
mod support;
