//! What the tests of vnet are built from: the lab, the product running in it, the programs one
//! packet at a time, the demo.

pub mod demo;
pub mod lab;
pub mod lifecycle;
pub mod modes;
pub mod programs;
pub mod vnet;
