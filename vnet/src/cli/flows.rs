//! `vnet flows`: the connections that are translated now.

use std::{net::IpAddr, process::ExitCode};

use clap::Args;
use vnet::{
    instance::Name,
    report::{
        Protocol,
        flows::{self, Filter, Sort},
    },
};

use super::{Output, print};

/// List the flows that are translated now.
///
/// INSIDE is the guest's end, OUTSIDE what the remote sees instead of it, REMOTE the other end. For
/// ICMP queries the number is their identifier. Works without the daemon.
///
/// JSON is a list of objects with every number in full.
#[derive(Debug, Args)]
pub struct Flows {
    /// The instance to look at
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: Name,
    /// How the result is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    /// Only flows of the guest with this address
    #[arg(long, value_name = "ADDR")]
    guest: Option<IpAddr>,
    /// Only flows of this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only flows of this IP protocol, by name or number
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// What comes first
    #[arg(long, value_name = "BY", default_value = "bytes")]
    sort: Sort,
    /// At most so many flows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Flows {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let filter = Filter {
            guest: self.guest,
            network: self.network,
            protocol: self.protocol,
            sort: self.sort,
            limit: self.limit,
        };
        let found = flows::read(&self.instance, &filter)?;
        match self.output {
            Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
            Output::Table => print(&flows::table(&found))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
