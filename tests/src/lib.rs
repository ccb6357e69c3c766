//! The lab: hosts, guests and wires in private network namespaces; and the product running in it.

pub mod lab;
pub mod vnet;
