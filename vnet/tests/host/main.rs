//! What the loader reads from and changes on a host, on real kernels: each test in a network
//! namespace of its own. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod files;
mod namespace;
mod qdisc;
mod snapshot;
mod uplink;
mod watch;
