//! A host that forwards in one way or another, with a guest and an outside.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use vnet_common::generator::{FRAME_BYTES, Stream};

use super::{
    Sample, Way,
    threads::{FORWARDS, GENERATES, Receiver},
    wire::{Stops, Wire},
};
use crate::{
    lab::{Guest, Lab, Node},
    modes::{Forward, Net, libvirt_rules},
    programs::udp,
    vnet::{Vnet, nat_network},
};

const GUEST: &str = "192.168.122.10";
const GATEWAY: &str = "192.168.122.1/24";
const EXTERNAL: &str = "203.0.113.2";
const REMOTE: &str = "203.0.113.1";
const REMOTE_PORT: u16 = 9;
const FIRST_PORT: u16 = 20480;
/// Flows at once.
const FLOWS: u16 = 256;
const WARM_UP: Duration = Duration::from_millis(200);
const TIME: Duration = Duration::from_secs(1);

/// What a host does with the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forwarding {
    /// Nothing: the first program at TC drops them.
    Floor,
    /// Nothing: an XDP program drops them.
    FloorOfXdp,
    /// The kernel forwards them as they are.
    Plain,
    /// The kernel masquerades them by libvirt's rules.
    Masquerade,
    /// vnet masquerades them, at TC, by way of the bridge.
    Vnet,
    /// vnet masquerades them, at TC, past the bridge.
    ShortWays,
    /// Likewise, and at XDP on the uplink.
    Xdp,
}

impl Forwarding {
    pub const ALL: [Self; 7] = [
        Self::Floor,
        Self::FloorOfXdp,
        Self::Plain,
        Self::Masquerade,
        Self::Vnet,
        Self::ShortWays,
        Self::Xdp,
    ];
    /// Those that let packets through.
    pub const FORWARDS: [Self; 5] =
        [Self::Plain, Self::Masquerade, Self::Vnet, Self::ShortWays, Self::Xdp];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "dropped at TC",
            Self::FloorOfXdp => "dropped at XDP",
            Self::Plain => "plain forwarding",
            Self::Masquerade => "nft masquerade",
            Self::Vnet => "vnet",
            Self::ShortWays => "vnet, short ways",
            Self::Xdp => "vnet, XDP",
        }
    }

    /// What is the same rig without forwarding.
    pub fn floor(self, way: Way) -> Self {
        // Nothing comes in from a guest by XDP.
        if self == Self::Xdp && way == Way::In { Self::FloorOfXdp } else { Self::Floor }
    }

    /// What vnet is told, if it runs.
    const fn arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Vnet => Some(&[]),
            Self::ShortWays => Some(&["--short-ways", "on", "--xdp", "off"]),
            Self::Xdp => Some(&["--short-ways", "on", "--xdp", "on"]),
            _ => None,
        }
    }

    /// Whether the outside sees the host's address.
    const fn translates(self) -> bool {
        !matches!(self, Self::Plain)
    }
}

/// A host with its guest and its outside.
pub(super) struct Site {
    forwarding: Forwarding,
    host: Node,
    port: String,
    guest_wire: Wire,
    outside_wire: Wire,
    out: Stream,
    back: Stream,
    of_port: Receiver,
    of_uplink: Receiver,
    _of_ends: [Receiver; 2],
    vnet: Option<Vnet>,
    _stops: Option<Stops>,
    _lab: Lab,
}

impl Site {
    pub fn new(forwarding: Forwarding) -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let address = format!("{EXTERNAL}/24");
        let outside = lab.outside(&host, "eth0", "outside", &address, &format!("{REMOTE}/24"))?;
        host.bridge("virbr0", &[GATEWAY])?;
        let guest = Guest::veth("guest").address(&format!("{GUEST}/24")).gateway("192.168.122.1");
        let guest = lab.guest(&host, "virbr0", &guest)?;
        let port = host.port_of("guest").context("the guest has no port")?;
        let [guest_mac, outside_mac] = [mac(&guest, "eth0")?, mac(&outside, "eth0")?];
        let [bridge_mac, uplink_mac] = [mac(&host, "virbr0")?, mac(&host, "eth0")?];
        host.ip_batch(&[
            format!("neighbour replace {GUEST} lladdr {guest_mac} nud permanent dev virbr0"),
            format!("neighbour replace {REMOTE} lladdr {outside_mac} nud permanent dev eth0"),
        ])?;
        host.forwarding(true)?;
        let of_port = Receiver::of(&host, &port, FORWARDS)?;
        let of_uplink = Receiver::of(&host, "eth0", FORWARDS)?;
        let (guest_wire, outside_wire) = (Wire::at(&guest)?, Wire::at(&outside)?);
        let of_ends = [
            Receiver::coalescing(&guest, "eth0", GENERATES)?,
            Receiver::coalescing(&outside, "eth0", GENERATES)?,
        ];
        let mut vnet = None;
        let mut stops = None;
        match forwarding {
            Forwarding::Floor | Forwarding::FloorOfXdp => {
                let by_xdp = forwarding == Forwarding::FloorOfXdp;
                stops = Some(Stops::at(&host, [&port, "eth0"], by_xdp)?);
            }
            Forwarding::Plain => {}
            Forwarding::Masquerade => {
                let net = Net::new("default", Forward::Nat, "virbr0", &[GATEWAY]);
                host.run_with_input(&["nft", "-f", "-"], libvirt_rules(&[net]).as_bytes())?;
            }
            Forwarding::Vnet | Forwarding::ShortWays | Forwarding::Xdp => {
                let definition = nat_network("default", "virbr0", &[GATEWAY]);
                let arguments = forwarding.arguments().unwrap_or_default();
                vnet = Some(Vnet::start_with(&host, &[definition], arguments)?);
            }
        }
        let seen = if forwarding.translates() { EXTERNAL } else { GUEST };
        let out = stream((GUEST, &guest_mac), (REMOTE, &bridge_mac), true)?;
        let back = stream((REMOTE, &outside_mac), (seen, &uplink_mac), false)?;
        Ok(Self {
            forwarding,
            host,
            port,
            guest_wire,
            outside_wire,
            out,
            back,
            of_port,
            of_uplink,
            _of_ends: of_ends,
            vnet,
            _stops: stops,
            _lab: lab,
        })
    }

    pub fn measure(&mut self, way: Way) -> Result<Sample> {
        // Also what opens the flows of the way back.
        self.guest_wire.send(self.out, WARM_UP)?;
        if way == Way::In {
            self.outside_wire.send(self.back, WARM_UP)?;
        }
        let (thread, interface, leaves_by) = match way {
            Way::Out => (&self.of_port, self.port.as_str(), "eth0"),
            Way::In => (&self.of_uplink, "eth0", self.port.as_str()),
        };
        let time = thread.time_at_rest()?;
        let received = self.counter(interface, "rx_packets")?;
        let (left, taken) = (self.left(leaves_by)?, self.taken(way)?);
        let begin = Instant::now();
        match way {
            Way::Out => self.guest_wire.send(self.out, TIME)?,
            Way::In => self.outside_wire.send(self.back, TIME)?,
        }
        let elapsed = begin.elapsed();
        let time = thread.time_at_rest()? - time;
        let received = self.counter(interface, "rx_packets")? - received;
        let taken = self.taken(way)? - taken;
        // What the other end has no room for was forwarded all the same.
        let left = (self.left(leaves_by)? - left).max(taken);
        self.check(way, received, left)?;
        Ok(Sample {
            gross: number(time) / number(received),
            rate: number(left) / elapsed.as_secs_f64(),
        })
    }

    /// What does not leave was not forwarded, and was cheaper.
    fn check(&self, way: Way, received: u64, left: u64) -> Result<()> {
        const ALL_BUT: u64 = 20;
        let name = self.forwarding.name();
        ensure!(received > 0, "{name}, {}: the host has received nothing", way.name());
        if Forwarding::FORWARDS.contains(&self.forwarding) {
            let most = received - received / ALL_BUT;
            ensure!(left >= most, "{name}, {}: {left} of {received} have left", way.name());
        } else if left != 0 {
            bail!("{name}, {}: {left} packets have left", way.name());
        }
        Ok(())
    }

    fn left(&self, interface: &str) -> Result<u64> {
        Ok(self.counter(interface, "tx_packets")? + self.counter(interface, "tx_dropped")?)
    }

    fn counter(&self, interface: &str, name: &str) -> Result<u64> {
        let path = format!("/sys/class/net/{interface}/statistics/{name}");
        let text = self.host.enter(|| fs::read_to_string(&path))?.with_context(|| path.clone())?;
        Ok(text.trim().parse()?)
    }

    fn taken(&self, way: Way) -> Result<u64> {
        match way {
            Way::Out => self.outside_wire.taken(),
            Way::In => self.guest_wire.taken(),
        }
    }

    pub fn finish(self) -> Result<()> {
        Ok(self.vnet.map_or(Ok(()), Vnet::stop)?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "none of them has more than 52 bits")]
fn number(count: u64) -> f64 {
    count as f64
}

fn mac(node: &Node, interface: &str) -> Result<String> {
    let path = format!("/sys/class/net/{interface}/address");
    Ok(node.enter(|| fs::read_to_string(&path))?.with_context(|| path.clone())?.trim().to_owned())
}

/// Datagrams of all flows: those of the guest differ in their source, those of the outside in their destination.
fn stream(from: (&str, &str), to: (&str, &str), is_out: bool) -> Result<Stream> {
    const LINK: usize = 14;
    const SOURCE_PORT: usize = LINK + 20;
    let (ports, remote) = (FIRST_PORT, REMOTE_PORT);
    let [source, destination] = if is_out { [ports, remote] } else { [remote, ports] };
    let [from_ip, to_ip]: [Ipv4Addr; 2] = [from.0.parse()?, to.0.parse()?];
    let endpoints = (format!("{from_ip}:{source}"), format!("{to_ip}:{destination}"));
    // Without a checksum, so that the ports may change.
    let packet = udp(&endpoints.0, &endpoints.1).payload(&[0; 18]).without_checksum().frame();
    let mut frame: [u8; FRAME_BYTES] =
        packet.try_into().map_err(|packet: Vec<u8>| anyhow::anyhow!("{} bytes", packet.len()))?;
    for (place, text) in [(0, to.1), (6, from.1)] {
        for (byte, word) in frame.iter_mut().skip(place).zip(text.split(':')) {
            *byte = u8::from_str_radix(word, 16)?;
        }
    }
    Ok(Stream {
        frame,
        port_offset: if is_out { SOURCE_PORT } else { SOURCE_PORT + 2 } as u32,
        first_port: FIRST_PORT.into(),
        port_mask: u32::from(FLOWS) - 1,
        step: 1,
    })
}
