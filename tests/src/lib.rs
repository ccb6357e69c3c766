//! The lab (hosts, guests and wires in private network namespaces) and the programs one by one.

pub mod lab;
pub mod programs;
