//! What guests, the host and the outside see of each other through a running `vnet`.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod bulk;
mod exceptions;
mod following;
mod forwards;
mod inbound;
mod networks;
mod own_copies;
mod reserved;
mod scan;
mod services;
mod support;
mod traffic;
