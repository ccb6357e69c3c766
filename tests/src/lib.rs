//! What the tests of vnet are built from: the lab, the product running in it, the programs one
//! packet at a time, a model of them and what compares both, the demo, the benchmarks.

pub mod bench;
pub mod demo;
pub mod fuzz;
pub mod lab;
pub mod lifecycle;
pub mod model;
pub mod modes;
pub mod programs;
pub mod vnet;
pub mod xdp;
