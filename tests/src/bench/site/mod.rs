//! A host that forwards in one way or another, with a guest and an outside.
//!
//! The host's port and its uplink are veth pairs whose NAPI threads are bound to one CPU; all else has another one.
//! Where the guest is on a tap, the thread that writes its frames forwards them in the same call, as a hypervisor's
//! does, and has that CPU instead.

mod base;
mod forwarding;
mod noise;
mod stream;
mod tap;
mod threads;
mod wire;

pub(super) use base::Base;
use base::HOST_OUTSIDE;
pub(super) use forwarding::Forwarding;
pub(super) use noise::Noise;
pub(super) use stream::{Beyond, Flows};
pub(super) use threads::{GENERATES, bind, cpus_suffice, run_first};
pub(super) use wire::Load;

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use vnet_common::{family::Family, generator::Stream};

use crate::lab::{Node, PortKind};
use stream::{End, frame_bytes};
use tap::TapGuest;
use wire::{Stops, Wire};

/// The bridge of the network that is measured.
const BRIDGE: &str = "virbr0";
/// The host's uplink.
const UPLINK: &str = "eth0";
const WARM_UP: Duration = Duration::from_millis(100);

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

impl Way {
    pub const BOTH: [Self; 2] = [Self::Out, Self::In];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "guest to outside",
            Self::In => "outside to guest",
        }
    }
}

/// What a site is like.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub forwarding: Forwarding,
    pub port: PortKind,
    pub family: Family,
    /// Networks of the host, with the one that is measured.
    pub networks: usize,
    /// Flows that vnet has room for, if it is told.
    pub max_flows: Option<u32>,
}

impl Layout {
    /// One network in IPv4, whose guest is on a veth pair.
    pub const fn of(forwarding: Forwarding) -> Self {
        let (port, family) = (PortKind::Veth, Family::Ipv4);
        Self { forwarding, port, family, networks: 1, max_flows: None }
    }

    /// The host's addresses on the bridge.
    fn gateways(&self) -> Vec<&'static str> {
        match self.family {
            Family::Ipv4 => vec!["10.64.0.1/16"],
            Family::Ipv6 => vec!["10.64.0.1/16", "fd00:64::1/64"],
        }
    }

    const fn guest(&self) -> &'static str {
        match self.family {
            Family::Ipv4 => "10.64.0.10",
            Family::Ipv6 => "fd00:64::10",
        }
    }

    /// The host's address outside.
    const fn external(&self) -> &'static str {
        match self.family {
            Family::Ipv4 => HOST_OUTSIDE,
            Family::Ipv6 => "2001:db8:1::2",
        }
    }

    /// Whom the guest talks to, behind the next router.
    const fn remote(&self) -> &'static str {
        match self.family {
            Family::Ipv4 => "198.18.0.0",
            Family::Ipv6 => "2001:db8:2::1",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Nanoseconds of the forwarding thread for each packet that it got.
    pub gross: f64,
    /// Packets that came out in a second.
    pub rate: f64,
}

/// A site whose ends send and take frames without a stack.
pub(super) struct Site {
    base: Base,
    layout: Layout,
    guest: GuestEnd,
    outside: Wire,
    macs: Macs,
    _stops: Option<Stops>,
}

enum GuestEnd {
    Wire(Box<Wire>),
    Tap(TapGuest),
}

/// Of those who send and receive frames.
struct Macs {
    guest: [u8; 6],
    bridge: [u8; 6],
    uplink: [u8; 6],
    outside: [u8; 6],
}

impl Site {
    pub fn new(layout: Layout) -> Result<Self> {
        let tap = "tap0";
        let base = Base::lay(&layout, |host| match layout.port {
            PortKind::Veth => Ok(None),
            PortKind::Tap => Ok(Some((tap, TapGuest::new(host, tap)?))),
        })?;
        let (mut base, made) = base;
        let guest = match (made, &base.guest) {
            (Some((_, tap)), _) => GuestEnd::Tap(tap),
            (None, Some(guest)) => GuestEnd::Wire(Box::new(Wire::at(guest, layout.family)?)),
            (None, None) => bail!("there is no guest"),
        };
        let outside = Wire::at(&base.outside, layout.family)?;
        base.bind_receivers(threads::Receiver::coalescing)?;
        let macs = Macs {
            // That of a guest on a tap is nobody's here.
            guest: base
                .guest
                .as_ref()
                .map_or(Ok([0x52, 0x54, 0, 0, 1, 1]), |guest| mac(guest, "eth0"))?,
            bridge: mac(&base.host, BRIDGE)?,
            uplink: mac(&base.host, UPLINK)?,
            outside: mac(&base.outside, "eth0")?,
        };
        base.know_neighbours(&layout, macs.guest, macs.outside)?;
        let stops = match layout.forwarding {
            Forwarding::Floor | Forwarding::FloorOfXdp => {
                let by_xdp = layout.forwarding == Forwarding::FloorOfXdp;
                let interfaces = if by_xdp { &[UPLINK][..] } else { &[UPLINK, &base.port] };
                Some(Stops::at(&base.host, interfaces, by_xdp)?)
            }
            _ => None,
        };
        base.forward(&layout)?;
        Ok(Self { base, layout, guest, outside, macs, _stops: stops })
    }

    pub const fn base(&self) -> &Base {
        &self.base
    }

    /// The frames of flows, in one direction.
    fn stream(&self, way: Way, flows: Flows) -> Result<Stream> {
        let Layout { forwarding, .. } = self.layout;
        let (guest, remote) = (self.layout.guest(), self.layout.remote());
        match way {
            Way::Out => stream::stream(
                way,
                End { mac: &self.macs.guest, address: guest },
                End { mac: &self.macs.bridge, address: remote },
                flows,
            ),
            Way::In => {
                let seen = if forwarding.translates() { self.layout.external() } else { guest };
                stream::stream(
                    way,
                    End { mac: &self.macs.uplink, address: seen },
                    End { mac: &self.macs.outside, address: remote },
                    flows,
                )
            }
        }
    }

    /// Opens flows, each of them by a packet, until all but a few are live.
    pub fn open(&mut self, flows: Flows) -> Result<()> {
        const ATTEMPTS: usize = 5;
        let stream = self.stream(Way::Out, flows)?;
        let mut live = None;
        for _ in 0..ATTEMPTS {
            self.send_in_step(&stream, flows.count)?;
            self.base.rest()?;
            live = self.base.live_flows()?;
            if live.is_none_or(|live| live * 100 >= u64::from(flows.count) * 99) {
                return Ok(());
            }
        }
        let name = self.layout.forwarding.name();
        bail!("{name}: {} of {} flows are live", live.unwrap_or_default(), flows.count)
    }

    /// Sends outside not more at once than the port has room for, however long the receiver waits for its turn.
    fn send_in_step(&mut self, stream: &Stream, frames: u32) -> Result<()> {
        // Of the 256 of a veth's ring; whole batches.
        const AT_ONCE: u32 = 192;
        const PATIENCE: Duration = Duration::from_secs(2);
        let port = self.base.port.clone();
        for _ in 0..frames.div_ceil(AT_ONCE) {
            let wanted = self.counter(&port, "rx_packets")? + u64::from(AT_ONCE);
            self.send(Way::Out, stream, Load::paced(AT_ONCE, u32::MAX))?;
            let begin = Instant::now();
            while self.counter(&port, "rx_packets")? < wanted && begin.elapsed() < PATIENCE {}
        }
        Ok(())
    }

    /// Packets of flows that are known.
    pub fn measure(&mut self, way: Way, flows: Flows, load: Load) -> Result<Sample> {
        // Also what opens the flows of the way back.
        let out = self.stream(Way::Out, flows)?;
        self.send(Way::Out, &out, Load::For(WARM_UP))?;
        let stream = self.stream(way, flows)?;
        if way == Way::In {
            self.send(way, &stream, load.for_a_while(WARM_UP))?;
        }
        self.run(way, &stream, load)
    }

    /// As many packets at a pace, each of which opens a flow.
    pub fn measure_opening(&mut self, flows: Flows, load: Load) -> Result<Sample> {
        let stream = self.stream(Way::Out, flows)?;
        self.run(Way::Out, &stream, load)
    }

    fn run(&mut self, way: Way, stream: &Stream, load: Load) -> Result<Sample> {
        let port = self.base.port.clone();
        let (interface, leaves_by) =
            if way == Way::Out { (port.as_str(), UPLINK) } else { (UPLINK, port.as_str()) };
        self.base.rest()?;
        let time = self.base.time(way)?;
        let received = self.counter(interface, "rx_packets")?;
        let (left, taken) = (self.left(leaves_by)?, self.taken(way)?);
        let begin = Instant::now();
        let by_writer = self.send(way, stream, load)?;
        let elapsed = begin.elapsed();
        self.base.rest()?;
        let time =
            by_writer.map_or_else(|| Ok(self.base.time(way)? - time), Ok::<_, anyhow::Error>)?;
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

    /// Nanoseconds of the thread that has forwarded, if that is the sender's.
    fn send(&mut self, way: Way, stream: &Stream, load: Load) -> Result<Option<u64>> {
        match (way, &mut self.guest) {
            (Way::Out, GuestEnd::Wire(wire)) => wire.send(stream, load)?,
            (Way::In, _) => self.outside.send(stream, load)?,
            (Way::Out, GuestEnd::Tap(tap)) => {
                let Load::For(time) = load else { bail!("a tap's frames have no pace") };
                return tap.send(stream, frame_bytes(self.layout.family), time).map(Some);
            }
        }
        Ok(None)
    }

    /// What does not leave was not forwarded, and was cheaper.
    fn check(&self, way: Way, received: u64, left: u64) -> Result<()> {
        const ALL_BUT: u64 = 20;
        let name = self.layout.forwarding.name();
        ensure!(received > 0, "{name}, {}: the host has received nothing", way.name());
        if self.layout.forwarding.forwards() {
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
        let text = self.base.host.enter(|| fs::read_to_string(&path))?;
        Ok(text.with_context(|| path.clone())?.trim().parse()?)
    }

    fn taken(&self, way: Way) -> Result<u64> {
        match (way, &self.guest) {
            (Way::Out, _) => self.outside.taken(),
            (Way::In, GuestEnd::Wire(wire)) => wire.taken(),
            (Way::In, GuestEnd::Tap(tap)) => Ok(tap.taken()),
        }
    }

    pub fn finish(self) -> Result<()> {
        self.base.finish()
    }
}

#[expect(clippy::cast_precision_loss, reason = "none of them has more than 52 bits")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

fn mac(node: &Node, interface: &str) -> Result<[u8; 6]> {
    Ok(crate::modes::frame::mac_of(node, interface)?)
}
