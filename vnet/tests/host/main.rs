//! What the loader reads from and changes on a host, on real kernels: each test in a network
//! namespace of its own. They need root.

mod files;
mod namespace;
mod qdisc;
mod snapshot;
mod uplink;
mod watch;
