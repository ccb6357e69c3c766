//! The lab: hosts, guests and wires in private network namespaces.

pub mod lab;
pub mod lifecycle;
