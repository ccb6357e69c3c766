//! The lab: hosts, guests and wires in private network namespaces; and the demonstration in it.

pub mod demo;
pub mod lab;
