//! Bonds as NAT uplinks and below bridges: traffic while slaves fail, go and come, beside the same bond's own
//! traffic; modes that are refused. These tests need a kernel with bonds: `cargo xtask test --vm bond`.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod bridged;
mod nat;
mod refused;
mod support;
mod xdp;
