//! DHCP and DNS on a bridge by dnsmasq, as libvirt runs it.

use std::time::Duration;

use crate::lab::error::Result;
use crate::lab::namespace::Namespace;
use crate::lab::process::Running;

/// What a dnsmasq serves.
#[derive(Debug, Clone, Default)]
pub struct DnsmasqConfig<'a> {
    /// The interface it listens on.
    pub interface: &'a str,
    /// First and last address of the DHCP range; none: no DHCP.
    pub dhcp_range: Option<(&'a str, &'a str)>,
    /// Names it knows and their addresses.
    pub names: &'a [(&'a str, &'a str)],
    /// Where it keeps its leases; nowhere if none is given.
    pub lease_file: Option<&'a str>,
    /// Further options, as `--dhcp-option=3`.
    pub options: &'a [&'a str],
}

/// A running dnsmasq.
#[derive(Debug)]
pub struct Dnsmasq {
    running: Running,
}

impl Dnsmasq {
    /// Starts it; it is ready when this returns.
    pub fn start(namespace: &Namespace, config: &DnsmasqConfig<'_>) -> Result<Self> {
        let mut command: Vec<String> = [
            "dnsmasq",
            "--conf-file=/dev/null",
            "--keep-in-foreground",
            "--log-facility=-",
            "--log-dhcp",
            "--pid-file",
            "--no-resolv",
            "--no-hosts",
            // It would wait 3 seconds for somebody to answer before it offers an address.
            "--no-ping",
            "--bind-dynamic",
            "--except-interface=lo",
            // Leaving root would cancel the wish to die with the test (prctl(2), PR_SET_PDEATHSIG).
            "--user=root",
            "--group=root",
        ]
        .map(str::to_owned)
        .to_vec();
        command.push(format!("--interface={}", config.interface));
        command.push(match config.lease_file {
            Some(path) => format!("--dhcp-leasefile={path}"),
            None => "--leasefile-ro".to_owned(),
        });
        if let Some((first, last)) = config.dhcp_range {
            command.push(format!("--dhcp-range={first},{last}"));
            command.push("--dhcp-authoritative".to_owned());
        }
        command.extend(config.names.iter().map(|(name, to)| format!("--address=/{name}/{to}")));
        command.extend(config.options.iter().map(|&option| option.to_owned()));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let running = namespace.spawn(&command)?;
        // The last line of its start when it does not read /etc/hosts.
        let ready = if config.dhcp_range.is_some() { "DHCP, sockets bound" } else { "started" };
        running.wait_for_line(ready, Duration::from_secs(10))?;
        Ok(Self { running })
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.stderr()
    }
}
