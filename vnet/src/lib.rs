//! The library behind the `vnet` binary.

pub mod definition;
pub mod host;
pub mod instance;
pub mod object;
pub mod report;
