//! The least program that translates and redirects, and an empty one.

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, maps, programs::SchedClassifier};
use bytemuck::Pod as Bytes;
use vnet_common::{
    address::{Address, PortBe},
    family::Family,
    flow::{FlowKey, protocol},
    minimum::Rewrite,
};

use super::{median, run};
use crate::bench::objects;
use crate::programs::{
    Plain, Rig, address, ipv4,
    modes::{Ends, port_of},
    tcp, udp,
};

/// `TC_ACT_REDIRECT`
const REDIRECT: u32 = 7;
const PORT: u16 = 20000;
const REMOTE_PORT: u16 = 80;

/// What the least program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Yardstick {
    UdpOverIpv4,
    TcpOverIpv4,
    UdpOverIpv6,
    TcpOverIpv6,
}

impl Yardstick {
    pub const ALL: [Self; 4] =
        [Self::UdpOverIpv4, Self::TcpOverIpv4, Self::UdpOverIpv6, Self::TcpOverIpv6];

    pub fn of(family: Family, transport: u8) -> Self {
        match (family, transport == protocol::TCP) {
            (Family::Ipv4, false) => Self::UdpOverIpv4,
            (Family::Ipv4, true) => Self::TcpOverIpv4,
            (Family::Ipv6, false) => Self::UdpOverIpv6,
            (Family::Ipv6, true) => Self::TcpOverIpv6,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::UdpOverIpv4 => "the minimum, IPv4 UDP",
            Self::TcpOverIpv4 => "the minimum, IPv4 TCP",
            Self::UdpOverIpv6 => "the minimum, IPv6 UDP",
            Self::TcpOverIpv6 => "the minimum, IPv6 TCP",
        }
    }

    const fn transport(self) -> u8 {
        match self {
            Self::UdpOverIpv4 | Self::UdpOverIpv6 => protocol::UDP,
            Self::TcpOverIpv4 | Self::TcpOverIpv6 => protocol::TCP,
        }
    }

    const fn ends(self) -> Ends {
        match self {
            Self::UdpOverIpv4 | Self::TcpOverIpv4 => Ends::BOTH[0],
            Self::UdpOverIpv6 | Self::TcpOverIpv6 => Ends::BOTH[1],
        }
    }

    fn frame(self) -> Vec<u8> {
        let ends = self.ends();
        let (from, to) = (port_of(ends.guest, PORT), port_of(ends.remote, REMOTE_PORT));
        let is_tcp = self.transport() == protocol::TCP;
        let packet =
            if is_tcp { tcp(&from, &to, vnet_common::tcp::flags::ACK) } else { udp(&from, &to) };
        packet.ttl(u8::MAX).frame()
    }
}

/// Those programs, loaded, with their flows.
pub(super) struct Yardsticks {
    ebpf: Ebpf,
}

impl Yardsticks {
    pub fn load(rig: &Rig) -> Result<Self> {
        let mut ebpf = objects::load("minimum")?;
        for name in ["nothing", "minimum"] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load()?;
        }
        let mut yardsticks = Self { ebpf };
        let ifindex = rig.ifindex("eth0")?;
        for yardstick in Yardstick::ALL {
            yardsticks.enter(yardstick, ifindex)?;
        }
        Ok(yardsticks)
    }

    /// Two entries, each of which translates what the other has translated.
    fn enter(&mut self, yardstick: Yardstick, ifindex: u32) -> Result<()> {
        let (ends, transport) = (yardstick.ends(), yardstick.transport());
        let port = PortBe::from_host(PORT);
        let remote_port = PortBe::from_host(REMOTE_PORT);
        for (from, to) in [(ends.guest, ends.external), (ends.external, ends.guest)] {
            let rewrite = Rewrite {
                address: address(to),
                next_hop: address(ends.router),
                ifindex,
                port,
                link: [2; 12],
                reserved: [0; 2],
            };
            match ends.family {
                Family::Ipv4 => {
                    let remote = (ipv4(ends.remote), remote_port);
                    let key = FlowKey::outbound(transport, (ipv4(from), port), remote);
                    self.insert("OUTBOUND", key, rewrite)?;
                }
                Family::Ipv6 => {
                    let remote: (Address, _) = (address(ends.remote), remote_port);
                    let key = FlowKey::outbound(transport, (address(from), port), remote);
                    self.insert("OUTBOUND_IPV6", key, rewrite)?;
                }
            }
        }
        Ok(())
    }

    fn insert<K: Bytes>(&mut self, map: &str, key: K, rewrite: Rewrite) -> Result<()> {
        let map = self.ebpf.map_mut(map).context("no such map")?;
        let mut flows = maps::HashMap::<_, Plain<K>, Plain<Rewrite>>::try_from(map)?;
        Ok(flows.insert(Plain(key), Plain(rewrite), 0)?)
    }

    /// Nanoseconds of one run of the least program less those of an empty one, the median of calls.
    pub fn time(&self, yardstick: Yardstick, calls: usize, runs: u32) -> Result<f64> {
        let frame = yardstick.frame();
        let program = self.program("minimum")?;
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let (action, time) = run(program, &frame, None, runs)?;
            ensure!(action == REDIRECT, "{}: returned {action}", yardstick.name());
            times.push(time);
        }
        Ok(median(&times) - self.empty(calls, runs)?)
    }

    /// Nanoseconds of one run of an empty program.
    pub fn empty(&self, calls: usize, runs: u32) -> Result<f64> {
        let frame = Yardstick::UdpOverIpv4.frame();
        let program = self.program("nothing")?;
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            times.push(run(program, &frame, None, runs)?.1);
        }
        Ok(median(&times))
    }

    fn program(&self, name: &str) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(name).context("no such program")?.try_into()?)
    }
}
