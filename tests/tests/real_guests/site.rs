//! Guests, their host, a router and two servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vnet_tests::lab::services::{HttpServer, Upload, content, hash};
use vnet_tests::lab::{Capture, End, Lab, Node, RealGuest, listing};
use vnet_tests::vnet::Vnet;

/// For commands in a guest.
pub const DEADLINE: Duration = Duration::from_secs(120);
pub const GATEWAY: &str = "192.168.122.1";
/// The host's on its uplink: what the outside sees of guests.
pub const UPLINK: &str = "203.0.113.2";
pub const SERVER: &str = "192.0.2.2";
/// Behind a wire of [`NARROW_MTU`].
pub const NARROW_SERVER: &str = "198.51.100.2";
pub const NARROW_MTU: u16 = 1300;

const NETWORK: &str = "<network>
  <name>real</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='off' delay='0'/>
  <domain name='lab.example' localOnly='yes'/>
  <ip address='192.168.122.1' prefix='24'>
    <dhcp><range start='192.168.122.100' end='192.168.122.120'/></dhcp>
  </ip>
</network>
";

/// guests --- host --- router --- server, and from the router another wire to a narrow server.
pub struct Site {
    // Before the lab, whose end kills every process in it.
    pub vnet: Vnet,
    pub web: HttpServer,
    pub narrow_web: HttpServer,
    pub host: Node,
    /// What the outside sees of the guests' network, which should be nothing.
    leaked: Capture,
    lab: Lab,
}

impl Site {
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let [host, router] = [lab.host("host")?, lab.router("router")?];
        let [server, narrow] = [lab.station("server")?, lab.station("narrow")?];
        let end = |node, name, address| End::new(node, name).address(address);
        lab.wire(&end(&host, "eth0", "203.0.113.2/24"), &end(&router, "eth0", "203.0.113.1/24"))?;
        lab.wire(&end(&router, "eth1", "192.0.2.1/24"), &end(&server, "eth0", "192.0.2.2/24"))?;
        lab.wire_with_mtu(
            &end(&router, "eth2", "198.51.100.1/24"),
            &end(&narrow, "eth0", "198.51.100.2/24"),
            NARROW_MTU.into(),
        )?;
        host.route("default", "203.0.113.1")?;
        server.route("default", "192.0.2.1")?;
        // Offers the segments of an Ethernet, as a host does that is further away.
        let route = "ip route add default via 198.51.100.1 advmss 1460";
        narrow.run(&route.split(' ').collect::<Vec<_>>())?;

        let at = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let web = HttpServer::start(&server, at(80))?;
        let narrow_web = HttpServer::start(&narrow, at(80))?;
        let leaked = router.capture_headers("eth0", "net 192.168.122.0/24")?;
        let vnet = Vnet::start_with_services(&host, &[NETWORK.to_owned()])?;
        Ok(Self { vnet, web, narrow_web, host, leaked, lab })
    }

    /// Boots guests beside each other, and configures them by DHCP.
    pub fn guests<const N: usize>(&self, names: [&str; N]) -> Result<[(RealGuest, Ipv4Addr); N]> {
        let mut booted = Vec::new();
        for name in names {
            booted.push(self.lab.boot(&self.host, "virbr0", name)?);
        }
        let mut configured = Vec::new();
        for mut guest in booted {
            guest.wait_until_booted()?;
            let address = lease(&mut guest)?;
            configured.push((guest, address));
        }
        configured.try_into().ok().context("as many as there are names")
    }

    /// The successful end: nobody outside has seen a guest's address, netfilter was not involved,
    /// and vnet ends cleanly.
    pub fn finish(self) -> Result<()> {
        let leaked = self.leaked.finish()?;
        ensure!(leaked.is_empty(), "{}", listing(&leaked));
        for web in [&self.web, &self.narrow_web] {
            let peers = web.peers();
            ensure!(peers.iter().all(|peer| peer.ip().to_string() == UPLINK), "{peers:?}");
        }
        ensure!(self.host.nft_ruleset()? == "");
        ensure!(self.host.conntrack_count()? == 0);
        self.host.assert_no_checksum_errors()?;
        Ok(self.vnet.stop()?)
    }

    /// The SHA-256 of [`content`], in hexadecimal, as coreutils compute it.
    pub fn sha256(&self, length: usize) -> Result<String> {
        let mut hash = self.host.run_with_input(&["sha256sum"], &content(length))?;
        hash.truncate(64);
        Ok(hash)
    }
}

/// Asks for an address as a guest does when it has booted.
fn lease(guest: &mut RealGuest) -> Result<Ipv4Addr> {
    let line = "ip link set eth0 up && udhcpc -i eth0 -n -q -t 10 -T 1 -s /lease.sh";
    let said = guest.run(line, DEADLINE)?;
    let [ip, rest @ ..] = ["ip=", "router=", "dns=", "domain="]
        .map(|name| said.lines().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>());
    ensure!(rest == [[GATEWAY], [GATEWAY], ["lab.example"]], "{said}");
    let address = ip.first().and_then(|ip| ip.strip_suffix("/24"));
    let address: Ipv4Addr = address.with_context(|| said.clone())?.parse()?;
    let [a, b, c, last] = address.octets();
    ensure!([a, b, c] == [192, 168, 122] && (100..=120).contains(&last), "{address}");
    Ok(address)
}

/// For a guest's shell: sends a file by POST and prints what the server says. busybox's wget would
/// stop at the first zero byte; its `nc` would read a kilobyte at a time, so `cat` gets the socket.
pub fn upload(file: &str, length: usize, server: &str) -> String {
    let head = format!(r"POST / HTTP/1.1\r\nHost: {server}\r\nContent-Length: {length}\r\n\r\n");
    format!("nc {server} 80 -e sh -c 'printf \"{head}\"; cat {file}; tail -n 1 >&2'")
}

/// What the server says of an upload of [`content`] that has arrived as it was.
pub fn uploaded(length: usize) -> Upload {
    Upload { bytes: length as u64, hash: hash(&content(length)) }
}

/// Pings from a guest; all are answered.
pub fn assert_reaches(guest: &mut RealGuest, to: &str) -> Result<()> {
    let said = guest.run(&format!("ping -c 3 -i 0.2 -W 5 {to}"), DEADLINE)?;
    let counted = "3 packets transmitted, 3 packets received, 0% packet loss";
    ensure!(said.lines().any(|line| line == counted), "{said}");
    Ok(())
}
