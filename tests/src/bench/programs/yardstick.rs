//! The least program that translates and redirects, and an empty one.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{self, DevMapHash},
    programs::{Program, ProgramError, SchedClassifier, Xdp, XdpMode},
};
use bytemuck::Pod as Bytes;
use vnet_common::{
    address::{Address, PortBe},
    family::Family,
    flow::{FlowKey, protocol},
    minimum::Rewrite,
};

use super::run;
use crate::bench::objects;
use crate::programs::{
    Plain, Rig, address, ipv4,
    modes::{Ends, port_of},
    tcp, udp,
};

const PORT: u16 = 20000;
/// `TC_ACT_OK`, which says that a flow was entered.
const OPENED: u32 = 0;
const REMOTE_PORT: u16 = 80;

/// What the least program gets, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Yardstick {
    pub family: Family,
    pub transport: u8,
    pub hook: Hook,
    /// Whether it is what a new flow enters into tables, instead.
    pub opens: bool,
}

/// Where a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Tc,
    Xdp,
}

impl Hook {
    pub const BOTH: [Self; 2] = [Self::Tc, Self::Xdp];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tc => "TC",
            Self::Xdp => "XDP",
        }
    }

    /// What a program returns that redirects: `TC_ACT_REDIRECT`, `XDP_REDIRECT`.
    pub const fn redirect(self) -> u32 {
        match self {
            Self::Tc => 7,
            Self::Xdp => 4,
        }
    }

    /// What a program returns that leaves a packet to others: `TC_ACT_UNSPEC`, `XDP_PASS`.
    pub const fn next(self) -> u32 {
        match self {
            Self::Tc => u32::MAX,
            Self::Xdp => 2,
        }
    }
}

impl Yardstick {
    pub const fn new(family: Family, transport: u8, hook: Hook) -> Self {
        Self { family, transport, hook, opens: false }
    }

    /// Those of new flows.
    pub const fn opening(family: Family, transport: u8) -> Self {
        Self { family, transport, hook: Hook::Tc, opens: true }
    }

    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for hook in Hook::BOTH {
            for ends in Ends::BOTH {
                for transport in [protocol::UDP, protocol::TCP] {
                    all.push(Self::new(ends.family, transport, hook));
                }
            }
        }
        for ends in Ends::BOTH {
            all.extend([protocol::UDP, protocol::TCP].map(|of| Self::opening(ends.family, of)));
        }
        all
    }

    /// The packets that it is for.
    pub fn packets(self) -> String {
        let transport = if self.transport == protocol::TCP { "TCP" } else { "UDP" };
        format!("{} {transport}", version(self.family))
    }

    /// Run many times on a packet, or a single time.
    pub fn name(self, is_single: bool) -> String {
        let what = if self.opens { "the tables of a new flow" } else { "the minimum" };
        let runs = if is_single { ", single runs" } else { "" };
        format!("{what}, {}{runs}", self.packets())
    }

    const fn ends(self) -> Ends {
        match self.family {
            Family::Ipv4 => Ends::BOTH[0],
            Family::Ipv6 => Ends::BOTH[1],
        }
    }

    fn frame(self, port: u16) -> Vec<u8> {
        let ends = self.ends();
        let (from, to) = (port_of(ends.guest, port), port_of(ends.remote, REMOTE_PORT));
        let is_tcp = self.transport == protocol::TCP;
        let packet =
            if is_tcp { tcp(&from, &to, vnet_common::tcp::flags::ACK) } else { udp(&from, &to) };
        // As much as XDP's looks at in any packet.
        packet.ttl(u8::MAX).payload(&[0; 32]).frame()
    }
}

/// Those programs, loaded, with their flows.
pub(super) struct Yardsticks {
    ebpf: Ebpf,
    /// The last one from which a flow was entered.
    port: u16,
}

impl Yardsticks {
    pub fn load(rig: &Rig) -> Result<Self> {
        let mut ebpf = objects::load("minimum")?;
        for name in ["nothing", "minimum", "tables"] {
            let program: &mut SchedClassifier =
                ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load()?;
        }
        for (name, interface) in [("nothing_xdp", "far1"), ("minimum_xdp", "far2")] {
            let program: &mut Xdp =
                ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load()?;
            // Runs of a program that is attached nowhere enter it in the kernel's dispatcher, each with a wait for
            // grace periods (`bpf_prog_change_xdp`). No frame comes here.
            program.attach(interface, XdpMode::Driver)?;
        }
        let ifindex = rig.ifindex("eth0")?;
        let devices = ebpf.map_mut("DEVICES").context("no such map")?;
        DevMapHash::try_from(devices)?.insert(ifindex, ifindex, None, 0)?;
        let mut yardsticks = Self { ebpf, port: 0 };
        for yardstick in Yardstick::all().into_iter().filter(|y| y.hook == Hook::Tc && !y.opens) {
            yardsticks.enter(yardstick, ifindex)?;
        }
        Ok(yardsticks)
    }

    /// Two entries, each of which translates what the other has translated.
    fn enter(&mut self, yardstick: Yardstick, ifindex: u32) -> Result<()> {
        let (ends, transport) = (yardstick.ends(), yardstick.transport);
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

    /// Nanoseconds of one run of the least program.
    pub fn time(&mut self, yardstick: Yardstick, runs: u32) -> Result<f64> {
        let name = yardstick.name(runs == 1);
        if yardstick.opens {
            self.port = self.port.checked_add(1).context("no port for another flow")?;
            let frame = yardstick.frame(self.port);
            let (action, time) =
                run(self.program::<SchedClassifier>("tables")?, &frame, None, runs)?;
            ensure!(action == OPENED, "{name}: returned {action}");
            return Ok(time);
        }
        let frame = yardstick.frame(PORT);
        let (action, time) = match yardstick.hook {
            Hook::Tc => run(self.program::<SchedClassifier>("minimum")?, &frame, None, runs)?,
            Hook::Xdp => run(self.program::<Xdp>("minimum_xdp")?, &frame, None, runs)?,
        };
        ensure!(action == yardstick.hook.redirect(), "{name}: returned {action}");
        Ok(time)
    }

    /// Nanoseconds of one run of an empty program.
    pub fn empty(&mut self, hook: Hook, runs: u32) -> Result<f64> {
        let frame = Yardstick::new(Family::Ipv4, protocol::UDP, hook).frame(PORT);
        let (_, time) = match hook {
            Hook::Tc => run(self.program::<SchedClassifier>("nothing")?, &frame, None, runs)?,
            Hook::Xdp => run(self.program::<Xdp>("nothing_xdp")?, &frame, None, runs)?,
        };
        Ok(time)
    }

    fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a P>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
        P: 'a,
    {
        let program: &mut P = self.ebpf.program_mut(name).context("no such program")?.try_into()?;
        Ok(program)
    }
}

pub(super) const fn version(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}
