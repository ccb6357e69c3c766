//! A host with libvirt's daemon, an uplink, and vnet on what libvirt has defined.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use vnet_tests::{
    lab::{Guest, Lab, Libvirt, Node, Running, wait_until},
    lifecycle::program,
};

pub const DEADLINE: Duration = Duration::from_secs(30);
pub const OUTSIDE: &str = "203.0.113.1";
pub const UPLINK: &str = "203.0.113.2";

/// libvirt's default network with a mode and options of vnet's; without STP, for which a new port would
/// wait.
pub fn network(mode: &str, options: &str) -> String {
    format!(
        "<network><name>default</name><metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{options}\
         </vnet:options></metadata><forward mode='{mode}'/><bridge name='virbr0' stp='off'/>\
         <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>\
         <range start='192.168.122.100' end='192.168.122.199'/></dhcp></ip></network>"
    )
}

pub struct Scene {
    // The first to go, with what it serves.
    pub libvirt: Libvirt,
    pub host: Node,
    pub outside: Node,
    pub lab: Lab,
    instance: String,
}

impl Scene {
    /// A host where libvirt runs a network.
    pub fn new(definition: &str) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let instance = format!("libvirt-{}-{serial}", process::id());
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let outside = lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        let libvirt = Libvirt::start(&host)?;
        libvirt.run_network("default", definition)?;
        Ok(Self { libvirt, host, outside, lab, instance })
    }

    /// The name of vnet's instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// `vnet run` of libvirt's own directory, ready.
    pub fn run(&self) -> Result<Running> {
        let program = program()?;
        let arguments = ["run", Libvirt::DEFINITIONS, "--instance", &self.instance];
        let running = self.host.spawn(&[&[program.as_str()], &arguments[..]].concat())?;
        running.wait_for_line("ready", DEADLINE)?;
        Ok(running)
    }

    /// `vnet doctor` of libvirt's own directory: the line of a check, and what mends it.
    pub fn doctor(&self, check: &str) -> Result<String> {
        let program = program()?;
        let output = self.host.try_run(&[&program, "doctor", Libvirt::DEFINITIONS])?;
        let lines: Vec<&str> = output.stdout.lines().collect();
        let at = lines.iter().position(|line| line.split_whitespace().nth(1) == Some(check));
        let at = at.ok_or_else(|| anyhow::anyhow!("no {check}: {}", output.stdout))?;
        let mend = lines.get(at + 1).filter(|line| line.starts_with(' '));
        Ok(format!("{}{}", lines[at], mend.map_or_else(String::new, |mend| format!("\n{mend}"))))
    }

    /// Plugs in a guest that gets its address and gateway from libvirt's dnsmasq.
    pub fn guest(&self, guest: &Guest) -> Result<(Node, String)> {
        let guest = self.lab.guest(&self.host, "virbr0", guest)?;
        let lease = guest.dhcp("eth0", DEADLINE)?;
        let address = lease.address.to_string();
        ensure!((100..=199).contains(&lease.address.octets()[3]), "{lease:?}");
        ensure!(lease.router == Some([192, 168, 122, 1].into()), "{lease:?}");
        guest.add_address("eth0", &format!("{address}/{}", lease.prefix_length))?;
        guest.route("default", "192.168.122.1")?;
        Ok((guest, address))
    }
}

/// Waits until a node reaches an address.
pub fn wait_until_reached(from: &Node, address: &str) -> Result<()> {
    wait_until(&format!("{} reaches {address}", from.name()), DEADLINE, || {
        match from.ping(address, 1) {
            Ok(ping) if ping.received == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    Ok(())
}

/// Checks that pings come back, all of them.
pub fn assert_reaches(from: &Node, address: &str) -> Result<()> {
    let ping = from.ping(address, 5)?;
    ensure!((ping.sent, ping.received) == (5, 5), "{}: {ping:?}", from.name());
    Ok(())
}

/// Ends vnet; what it has logged.
pub fn stop(mut running: Running) -> Result<String> {
    let output = running.terminate(DEADLINE)?.success()?;
    ensure!(!output.stderr.contains("ERROR"), "{}", output.stderr);
    Ok(output.stderr)
}
