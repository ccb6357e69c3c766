//! The programs and the model side by side.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use vnet_common::{
    family::Family,
    flow::protocol,
    names::program,
    network::{NETWORK_ENDPOINT_INDEPENDENT, NETWORK_ISOLATED_PORTS, Network},
    policy::Mode,
    port::PortRange,
    timeout::Timeouts,
};

use super::compare;
use super::step::{Sent, Setting, Step};
use super::wire;
use crate::lab::require_root;
use crate::model::{Arrival, Endpoint, Forward, Hook, Model, Seen, Socket, World};
use crate::programs::{self, Origin, Rig, Verdict, hex, ipv4};

/// Slots of the tables: more than a guest may have flows, and few enough to be read in a moment.
const SLOTS: u32 = 256;
/// Ports that sockets of the host have.
const HOST_TCP: u16 = 1026;
const HOST_UDP: u16 = 1027;
/// ICMP errors without end.
const TOKENS: u64 = 1 << 40;

/// How programs and model differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The step.
    pub index: usize,
    /// What differs.
    pub what: String,
    /// Whether it is in counters or tables, and so may be older than the step.
    pub looked_for: bool,
}

impl Difference {
    /// What it has in common with others of its kind: everything but numbers.
    pub(super) fn signature(&self) -> String {
        let words = |line: &&str| {
            line.starts_with("expected") || line.starts_with("seen") || line.contains("differ")
        };
        let lines: String = self.what.lines().filter(words).collect();
        lines.chars().filter(|letter| !letter.is_ascii_digit()).collect()
    }
}

/// The programs and the model side by side.
pub struct Pair<'r> {
    rig: &'r mut Rig,
    world: World,
    networks: Vec<(u16, Network)>,
    uplinks: Vec<(&'static str, Vec<&'static str>)>,
    model: Model,
    /// Seconds of a unit of [`Step::Wait`].
    unit: u64,
    /// Packets that both have seen.
    pub packets: u64,
    /// What was counted in all sequences.
    pub counted: BTreeMap<String, u64>,
    _sockets: (TcpListener, UdpSocket),
}

/// Runs `work` with a new rig and its model; not at all, and says so, without root rights.
pub fn with_pair(work: impl FnOnce(&mut Pair<'_>) -> Result<()> + Send) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    programs::modes::with_modes_and_room(SLOTS, |rig| work(&mut Pair::new(rig)?))
}

impl<'r> Pair<'r> {
    fn new(rig: &'r mut Rig) -> Result<Self> {
        pin_to_this_cpu()?;
        let sockets = (
            TcpListener::bind(("0.0.0.0", HOST_TCP))?,
            UdpSocket::bind(("198.51.100.1", HOST_UDP))?,
        );
        let unit = unit()?;
        let seconds = |units: u64| (units * unit) as u32;
        let timeouts = Timeouts {
            tcp_established: seconds(8),
            tcp_transitory: seconds(4),
            udp: seconds(3),
            icmp_query: seconds(2),
            other: seconds(3),
            port_hold_down: seconds(1),
        };
        for slot in rig.networks()?.into_keys() {
            rig.set_network(slot, |network| network.timeouts = timeouts)?;
        }
        let mut world = World::read(rig)?;
        world.sockets = vec![
            Socket { protocol: protocol::TCP, address: "0.0.0.0".parse()?, port: HOST_TCP },
            Socket { protocol: protocol::UDP, address: "198.51.100.1".parse()?, port: HOST_UDP },
        ];
        let networks = rig.networks()?.into_iter().collect();
        let uplinks = vec![
            ("eth0", vec!["198.51.100.1/24", "2001:db8:100::1/64"]),
            ("eth1", vec!["203.0.113.1/24", "2001:db8:113::1/64"]),
        ];
        let model = Model::new(world.clone());
        Ok(Self {
            rig,
            world,
            networks,
            uplinks,
            model,
            unit,
            packets: 0,
            counted: BTreeMap::new(),
            _sockets: sockets,
        })
    }

    /// The shortest timeout: what takes less lets nothing expire.
    #[must_use]
    pub fn unit(&self) -> Duration {
        Duration::from_secs(self.unit)
    }

    /// Both as they were at the beginning.
    pub fn reset(&mut self) -> Result<()> {
        for counter in &self.model.counted {
            *self.counted.entry(counter.name().to_owned()).or_default() += 1;
        }
        for name in &self.model.tried {
            *self.counted.entry((*name).to_owned()).or_default() += 1;
        }
        self.rig.clear()?;
        for (slot, settings) in &self.networks {
            self.rig.set_network(*slot, |network| *network = *settings)?;
        }
        for slot in [1, 2] {
            self.masquerade_at_bridge(slot)?;
        }
        for (name, addresses) in &self.uplinks {
            self.rig.set_uplink(name, addresses)?;
        }
        self.rig.configure(|config| {
            config.epoch = 1;
            config.session_limit = SLOTS;
        })?;
        self.model = Model::new(self.world.clone());
        self.model.world.refresh(self.rig)?;
        self.set_tokens(TOKENS)
    }

    /// Runs steps from the beginning, up to the first difference; looks at counters and tables every so
    /// many steps and at the end.
    pub fn run(&mut self, steps: &[Step], look_every: usize) -> Result<Option<Difference>> {
        self.reset()?;
        for (index, step) in steps.iter().enumerate() {
            if let Some(what) = self.step(step).with_context(|| format!("{step:?}"))? {
                return Ok(Some(Difference { index, what, looked_for: false }));
            }
            let is_time = index + 1 == steps.len() || (index + 1) % look_every == 0;
            if is_time && let Some(what) = self.look()? {
                return Ok(Some(Difference { index, what, looked_for: true }));
            }
        }
        Ok(None)
    }

    /// What is wrong with counters or tables.
    fn look(&mut self) -> Result<Option<String>> {
        if let Some(what) = compare::counters(&self.model.counted, &self.rig.counters()?) {
            return Ok(Some(what));
        }
        let tables = self.rig.tables()?;
        if let Some(what) = compare::tables(&self.model, &tables) {
            return Ok(Some(what));
        }
        let disagree = |error| format!("the tables disagree with each other: {error:#}");
        Ok(tables.check().err().map(disagree))
    }

    fn step(&mut self, step: &Step) -> Result<Option<String>> {
        match step {
            Step::Packet(sent) => return self.packet(sent),
            Step::Epoch => self.rig.bump_epoch()?,
            Step::Wait(units) => {
                self.rig.age(units * self.unit)?;
                self.settle(units * self.unit)?;
            }
            Step::Tokens(tokens) => self.set_tokens(*tokens)?,
            Step::Uplink(interface, addresses) => {
                let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
                self.rig.set_uplink(interface.name(), &addresses)?;
                self.rig.bump_epoch()?;
            }
            Step::Network(slot, setting) => {
                let eth0 = self.rig.ifindex("eth0")?;
                self.rig.set_network(*slot, |network| apply(*setting, network, eth0))?;
                self.masquerade_at_bridge(*slot)?;
                self.rig.bump_epoch()?;
            }
            Step::Sessions(limit) => {
                self.rig.configure(|config| config.session_limit = (*limit).min(SLOTS))?;
            }
            Step::Forward(protocol, port, to, network) => {
                self.forward(*protocol, *port, *to, *network)?;
                self.rig.bump_epoch()?;
            }
        }
        if !matches!(step, Step::Packet(_) | Step::Wait(_) | Step::Tokens(_)) {
            self.model.world.refresh(self.rig)?;
        }
        Ok(None)
    }

    /// Forwards a port of the first uplink, or lets one that is forwarded lead elsewhere.
    fn forward(&mut self, protocol: u8, port: u16, to: SocketAddr, network: u16) -> Result<()> {
        const EXTERNAL: [&str; 2] = ["198.51.100.1", "2001:db8:100::1"];
        let external = EXTERNAL[usize::from(to.is_ipv6())];
        let ports = PortRange { first: port, last: port };
        let inside = to.ip().to_string();
        self.rig.forward(protocol, (external, ports), (&inside, to.port()), "eth0", network)?;
        let external = (external.parse()?, port);
        let forwards = &mut self.model.world.forwards;
        forwards.retain(|one| (one.protocol, one.external) != (protocol, external));
        let uplink = self.rig.ifindex("eth0")?;
        forwards.push(Forward {
            protocol,
            external,
            inside: (to.ip(), to.port()),
            uplink,
            network,
        });
        Ok(())
    }

    /// As the plan does it: others are masqueraded to the addresses of routed and open bridges.
    fn masquerade_at_bridge(&mut self, slot: u16) -> Result<()> {
        let networks = self.rig.networks()?;
        let network = networks.get(&slot).context("no such network")?;
        let of_host = programs::modes::network_of(slot);
        let mut addresses = Vec::new();
        for (mode, family, length) in
            [(network.mode, Family::Ipv4, 24), (network.mode_ipv6, Family::Ipv6, 64)]
        {
            if matches!(Mode::from_byte(mode), Mode::Route | Mode::Open) {
                addresses.push(format!("{}/{length}", of_host.address(family, 1)));
            }
        }
        if addresses.is_empty() {
            // There may be none to remove.
            let _ = self.rig.remove_uplink(of_host.bridge);
            return Ok(());
        }
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        self.rig.set_uplink(of_host.bridge, &addresses)
    }

    fn set_tokens(&mut self, tokens: u64) -> Result<()> {
        self.rig.set_icmp_tokens(tokens)?;
        self.model.icmp_tokens = tokens;
        Ok(())
    }

    /// Lets the sweep go round until nothing more changes, and so much time pass for the model.
    fn settle(&mut self, seconds: u64) -> Result<()> {
        self.rig.restart_sweep()?;
        self.rig.sweep_uncounted(SLOTS)?;
        // Ended slots rest for a moment before they let go of their mapping.
        self.rig.drain()?;
        self.rig.sweep_uncounted(SLOTS)?;
        // A new flow would find those that still wait for their mapping and take them.
        self.rig.rest()?;
        self.model.wait(seconds);
        Ok(())
    }

    fn packet(&mut self, sent: &Sent) -> Result<Option<String>> {
        let ifindex_of = |name: &str| self.rig.ifindex(name).unwrap_or(0);
        let frame = wire::frame(&sent.spec, &self.model, &ifindex_of);
        let ifindex = ifindex_of(sent.at.name());
        let came_by = if sent.leaves { sent.came_by } else { Some(sent.at) };
        let ingress_ifindex = came_by.map_or(0, |interface| ifindex_of(interface.name()));
        let (program, hook) = hook(sent);
        self.packets += 1;
        let (action, out, mark) = self.rig.run_uncounted(programs::Arrival {
            program,
            frame: &frame,
            interface: sent.at.name(),
            origin: came_by.map_or(Origin::Host, |interface| Origin::Interface(interface.name())),
            mark: sent.mark,
            gso_size: 0,
        })?;
        let verdict = Verdict::from_action(action);
        let rig = &self.rig;
        let mapping = |protocol: u8, inside: Endpoint, external: IpAddr| {
            rig.mapped_port(protocol, inside, external)
        };
        let seen = Seen { verdict, frame: &out, mapping: &mapping };
        let arrival = Arrival { hook, ifindex, ingress_ifindex, mark: sent.mark, frame: &frame };
        let expected = self.model.expect(arrival, &seen);
        let same_frame = expected.frame.as_ref().is_none_or(|frame| *frame == out);
        let same_mark = expected.verdict == Verdict::Drop || expected.mark == mark;
        if expected.verdict == verdict && same_frame && same_mark && expected.objections.is_empty()
        {
            return Ok(None);
        }
        let counted = self.model.counted.iter().rev().take(2).collect::<Vec<_>>();
        let counters = compare::counters(&self.model.counted, &self.rig.counters()?);
        Ok(Some(format!(
            "in:\n{}\nexpected {:?}, mark {:#x}, last counted {counted:?} {:?}\n{}\nseen {verdict:?}, mark {mark:#x}\n{}\n{}",
            hex(&frame),
            expected.verdict,
            expected.mark,
            expected.objections,
            expected.frame.as_deref().map_or_else(String::new, hex),
            hex(&out),
            counters.unwrap_or_default(),
        )))
    }
}

fn hook(sent: &Sent) -> (&'static str, Hook) {
    match (sent.at.is_bridge(), sent.leaves) {
        (true, false) => (program::BRIDGE_INGRESS, Hook::BridgeIngress),
        (true, true) => (program::BRIDGE_EGRESS, Hook::BridgeEgress),
        (false, false) => (program::UPLINK_INGRESS, Hook::UplinkIngress),
        (false, true) => (program::UPLINK_EGRESS, Hook::UplinkEgress),
    }
}

fn apply(setting: Setting, network: &mut Network, eth0: u32) {
    match setting {
        // No definition binds an open network.
        Setting::Mode(mode) => {
            network.mode = mode;
            network.forward_ifindex = if mode == 3 { 0 } else { network.forward_ifindex };
        }
        Setting::Bound(true) if network.mode == 3 || network.mode_ipv6 == 3 => {}
        Setting::ModeIpv6(mode) => network.mode_ipv6 = mode,
        Setting::Ports(first, last) => network.ports = PortRange { first, last },
        Setting::FlowsPerGuest(limit) => network.flows_per_guest = limit,
        Setting::PortsPerGuest(limit) => network.ports_per_guest = limit,
        Setting::FlowLimit(limit) => network.flow_limit = limit,
        Setting::Bound(bound) => network.forward_ifindex = if bound { eth0 } else { 0 },
        Setting::Mtu(mtu) => network.mtu = mtu,
        Setting::Pool(0) => {
            network.pool_first = vnet_common::address::Ipv4Be::UNSPECIFIED;
            network.pool_last = network.pool_first;
        }
        Setting::Pool(count) => {
            network.pool_first = ipv4("203.0.113.128");
            network.pool_last = ipv4(&format!("203.0.113.{}", 127 + count.min(128)));
        }
        Setting::IsolatedPorts(isolated) => {
            network.flags &= !NETWORK_ISOLATED_PORTS;
            network.flags |= if isolated { NETWORK_ISOLATED_PORTS } else { 0 };
        }
        Setting::EndpointIndependent(open) => {
            network.flags &= !NETWORK_ENDPOINT_INDEPENDENT;
            network.flags |= if open { NETWORK_ENDPOINT_INDEPENDENT } else { 0 };
        }
    }
}

/// Counters are per CPU, and so are the tokens for ICMP errors.
fn pin_to_this_cpu() -> Result<()> {
    use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

/// Seconds of a unit: long against the run of a sequence, and short enough that this machine's clock can
/// be wound back by the longest timeout.
fn unit() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok());
    Ok((seconds.context("no uptime")? / 40).clamp(1, 60))
}
