//! What is read of the host beside its links, addresses and routes. Nothing is changed.

use std::ops::RangeInclusive;

use crate::{
    host::{
        listening::{self, Listening},
        netfilter::{self, Ruleset},
        sysctl,
    },
    instance,
};

/// What is read of the host beside its links, addresses and routes.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Sockets that wait for anybody.
    pub sockets: Vec<Listening>,
    /// `net.ipv4.ip_local_port_range`; none if it is not known.
    pub ephemeral: Option<RangeInclusive<u16>>,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved: Vec<RangeInclusive<u16>>,
    /// netfilter's rules; none if they are not known, as where nft is not installed.
    pub rules: Option<Ruleset>,
    /// What other instances run.
    pub neighbours: Vec<instance::State>,
}

impl Surroundings {
    /// Reads them for an instance. What cannot be read is in nobody's way as far as anybody knows.
    #[must_use]
    pub fn read(instance: &instance::Name) -> Self {
        let rules = netfilter::read();
        let rules = rules.inspect_err(|error| log::debug!("rules are not looked at: {error}"));
        Self { neighbours: instance::neighbours(Some(instance)), ..Self::with_rules(rules.ok()) }
    }

    /// Reads all but netfilter's rules and other instances.
    #[must_use]
    pub fn with_rules(rules: Option<Ruleset>) -> Self {
        Self {
            sockets: listening::read()
                .inspect_err(|error| log::debug!("sockets are not looked at: {error}"))
                .unwrap_or_default(),
            ephemeral: sysctl::ip_local_port_range().ok(),
            reserved: sysctl::ip_local_reserved_ports().unwrap_or_default(),
            rules,
            neighbours: Vec::new(),
        }
    }
}
