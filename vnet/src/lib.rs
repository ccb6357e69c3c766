//! The library behind the `vnet` binary.

pub mod bridges;
pub mod control;
pub mod datapath;
pub mod definition;
pub mod doctor;
pub mod guests;
pub mod host;
pub mod instance;
pub mod matrix;
pub mod notify;
pub mod object;
pub mod plan;
pub mod report;
pub mod services;
pub mod supervise;
pub mod watch_definitions;
