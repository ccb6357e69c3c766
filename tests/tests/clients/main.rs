//! Real programs of guests through a running `vnet`, as an operator's users would start them.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod datagrams;
mod dns;
mod ftp;
mod idle;
mod internet;
mod mtu;
mod protocols;
mod route;
mod stun;
mod tftp;
mod web;
