//! dnsmasq as vnet runs it: real processes, real clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod clients;
mod daemon;
mod privileges;
mod process;
mod supervisor;
mod support;
