//! What every test of the modes needs.

use std::net::IpAddr;
use std::time::Duration;

use vnet::matrix::probe::{self, Options, Outcome, Probe, ProbeError};

pub const DEADLINE: Duration = Duration::from_secs(10);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Makes the probes on a runtime of their own.
pub fn run(probes: &[Probe<'_>]) -> Result<Vec<Outcome>, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(probe::run(probes, &Options::default()))
}
