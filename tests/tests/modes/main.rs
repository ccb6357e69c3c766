//! Networks of every mode, both families, and what passes between them.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod dmz;
mod every_pair;
mod extension_headers;
mod fragments;
mod isolated_ports;
mod masquerade;
mod matrix;
mod open_network;
mod other_interface;
mod path;
mod route_behind_guest;
mod spoofed;
mod support;
mod virtual_server_hosting;
