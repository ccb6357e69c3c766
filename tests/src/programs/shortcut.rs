//! Short ways past the bridge: the tables that userspace fills, and frames at a guest's port and in XDP.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{MapError, xdp::DevMapHash};
use aya::programs::{ProgramError, TestRun as _, Xdp, XdpMode as AttachMode};
use aya::{Ebpf, TestRunOptions};
use bytemuck::{Pod, Zeroable};
use vnet_common::{
    flow::{Session, SessionCursor},
    guard::{Mac, MacKey},
    limits,
    names::{map, program},
    shortcut::{
        BridgePort, InboundWay, OutboundWay, PORT_JUDGED, PORT_SHORT, PORT_TAKES_XDP, Station,
        WAY_REST, XdpMode, XdpUplink, way_time,
    },
};

use super::counters::{self, Counted};
use super::guard::GUEST_MAC;
use super::load::{self, Plain};
use super::outcome::{Outcome, Verdict};
use super::packet::Packet;
use super::rig::Rig;
use super::run::Origin;

/// MAC address of the bridges and uplinks of a rig.
pub const HOST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xfe];
/// Where frames come in that are said to come in nowhere: the kernel takes them to be at `lo`.
pub const LOOPBACK: u32 = 1;
/// MAC address of the next hop behind `eth0`.
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// What the bridges of a rig are told to forget silent stations after, in milliseconds.
pub const AGEING_MS: u32 = 300_000;

/// The action that an XDP program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpVerdict {
    /// `XDP_PASS`
    Pass,
    /// `XDP_DROP`
    Drop,
    /// `XDP_REDIRECT`
    Redirect,
    /// Any other.
    Other(u32),
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpOutcome {
    /// The action.
    pub verdict: XdpVerdict,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The counters that moved.
    pub counted: Counted,
}

impl XdpOutcome {
    /// Left to TC as it came, and not counted at all.
    #[track_caller]
    pub fn assert_passed(&self, frame: &[u8]) {
        assert_eq!((self.verdict, &self.counted), (XdpVerdict::Pass, &Counted::new()));
        assert_eq!(self.frame, frame, "the frame");
    }
}

/// `struct xdp_md` of `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

impl Rig {
    /// Lets frames pass by a bridge of a network from and to a port, where [`GUEST_MAC`] has just been seen.
    /// Ways stay young.
    pub fn shorten(&mut self, network: u16, bridge: &str, port: &str) -> Result<()> {
        self.keep_ways_young(true);
        self.set_lease(u64::MAX)?;
        self.set_bridge_port(bridge, port, |_| {})?;
        let ifindex = self.ifindex(port)?;
        let seen = self.clock()?;
        self.set_station(bridge, GUEST_MAC, Station { port: ifindex, seen_at: ifindex, seen })?;
        let addresses = load::array_mut::<Mac>(self.ebpf_mut(), map::BRIDGE_ADDRESSES);
        addresses?.set(u32::from(network), Plain(Mac::from_bytes(HOST_MAC)), 0)?;
        self.set_xdp_uplink(LOOPBACK, Some("eth0"))?;
        let ports = load::found_mut(self.ebpf_mut(), map::XDP_PORTS)?;
        Ok(DevMapHash::try_from(ports)?.insert(ifindex, ifindex, None, 0)?)
    }

    /// Enters a port of a bridge that takes everything, changed.
    pub fn set_bridge_port(
        &mut self,
        bridge: &str,
        port: &str,
        change: impl FnOnce(&mut BridgePort),
    ) -> Result<()> {
        let mut entry = BridgePort {
            bridge: self.ifindex(bridge)?,
            port: self.ifindex(port)?,
            flags: PORT_SHORT | PORT_TAKES_XDP | PORT_JUDGED,
            ageing_ms: AGEING_MS,
        };
        let key = entry.port;
        change(&mut entry);
        let mut ports = load::hash_mut::<u32, BridgePort>(self.ebpf_mut(), map::BRIDGE_PORTS)?;
        Ok(ports.insert(Plain(key), Plain(entry), 0)?)
    }

    /// Says of which uplink frames at an interface are, or that they are of none.
    pub fn set_xdp_uplink(&mut self, device: u32, uplink: Option<&str>) -> Result<()> {
        let uplink = uplink.map(|name| self.ifindex(name)).transpose()?;
        let at = uplink.map(|ifindex| XdpUplink { ifindex, mac: HOST_MAC, reserved: [0; 2] });
        if device < limits::XDP_UPLINKS_BY_INDEX {
            let ebpf = self.ebpf_mut();
            let mut map = load::array_mut::<XdpUplink>(ebpf, map::XDP_UPLINKS_BY_INDEX)?;
            map.set(device, Plain(at.unwrap_or_default()), 0)?;
        }
        let mut map = load::hash_mut::<u32, XdpUplink>(self.ebpf_mut(), map::XDP_UPLINKS)?;
        match at {
            Some(at) => Ok(map.insert(Plain(device), Plain(at), 0)?),
            None => Ok(map.remove(&Plain(device))?),
        }
    }

    /// Enters what a bridge has learned.
    pub fn set_station(&mut self, bridge: &str, mac: [u8; 6], station: Station) -> Result<()> {
        let key = MacKey::new(self.ifindex(bridge)?, Mac::from_bytes(mac));
        let mut stations = load::hash_mut::<MacKey, Station>(self.ebpf_mut(), map::STATIONS)?;
        Ok(stations.insert(Plain(key), Plain(station), 0)?)
    }

    /// What is known of a station.
    pub fn station(&self, bridge: &str, mac: [u8; 6]) -> Result<Option<Station>> {
        let key = MacKey::new(self.ifindex(bridge)?, Mac::from_bytes(mac));
        match load::hash::<MacKey, Station>(self.ebpf(), map::STATIONS)?.get(&Plain(key), 0) {
            Ok(station) => Ok(Some(station.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Says until when short ways hold.
    pub fn set_lease(&mut self, until: u64) -> Result<()> {
        Ok(load::array_mut::<u64>(self.ebpf_mut(), map::SHORTCUT_LEASE)?.set(0, Plain(until), 0)?)
    }

    /// How many stations have moved.
    pub fn moves(&self) -> Result<u32> {
        Ok(load::array::<u32>(self.ebpf(), map::MOVES)?.get(&0, 0)?.0)
    }

    /// Says that so many have.
    pub fn set_moves(&mut self, moves: u32) -> Result<()> {
        Ok(load::array_mut::<u32>(self.ebpf_mut(), map::MOVES)?.set(0, Plain(moves), 0)?)
    }

    /// Says what XDP takes.
    pub fn set_xdp_mode(&mut self, mode: XdpMode) -> Result<()> {
        Ok(load::array_mut::<u32>(self.ebpf_mut(), map::XDP_MODE)?.set(0, Plain(mode as u32), 0)?)
    }

    /// Changes every live session.
    pub fn set_live_sessions(&mut self, change: impl Fn(&mut Session)) -> Result<()> {
        let live: Vec<u32> = self.tables()?.live().map(|(index, _)| index).collect();
        live.into_iter().try_for_each(|index| self.set_session(index, &change))
    }

    /// Whether packets come right after the last ones, however slow the test is: ways are good for a second.
    pub fn keep_ways_young(&mut self, young: bool) {
        self.ways_stay_young = young;
    }

    /// Makes packets those of just now, and ways so young that everybody uses them and may look for them again,
    /// if they are to stay young.
    pub(super) fn rejuvenate_ways(&mut self) -> Result<()> {
        if !self.ways_stay_young {
            return Ok(());
        }
        let cursors = load::array::<SessionCursor>(self.ebpf(), map::SESSION_CURSOR)?;
        let end = cursors.get(&0, 0)?.0.fresh as u32;
        let now = self.clock()?;
        let found_now = way_time(now) - 2 * WAY_REST;
        let renew = |time: u64, now: u64| if time == 0 { 0 } else { now };
        self.set_paths(|path| {
            path.found = found_now;
            for found in [&mut path.outbound.found, &mut path.inbound.found] {
                *found = renew((*found).into(), found_now.into()) as u32;
            }
        })?;
        for index in 0..end {
            self.set_session(index, |session| {
                session.last_outbound = renew(session.last_outbound, now);
                session.last_inbound = renew(session.last_inbound, now);
                for found in [&mut session.way_outbound.found, &mut session.way_inbound.found] {
                    *found = renew((*found).into(), found_now.into()) as u32;
                }
            })?;
        }
        Ok(())
    }

    /// A guest's packets at the bridge until one of them has looked for both ways. On a busy machine they may be
    /// too slow for that.
    pub fn look_for_ways(&mut self, packet: &Packet) -> Result<()> {
        for _ in 0..50 {
            let verdict = self.from_guest(packet)?.verdict;
            ensure!(verdict == Verdict::Redirect, "{packet:?}: {verdict:?}");
            let tables = self.tables()?;
            if tables.live().all(|(_, s)| s.way_outbound.found != 0 && s.way_inbound.found != 0) {
                return Ok(());
            }
        }
        bail!("no packet looks for a way")
    }

    /// Forgets the short ways, as an epoch does.
    pub fn forget_ways(&mut self) -> Result<()> {
        self.set_live_sessions(|session| {
            session.way_outbound = OutboundWay::default();
            session.way_inbound = InboundWay::default();
        })
    }

    /// A guest's frame at its port, which has no guard.
    pub fn frame_at_port(&mut self, port: &str, frame: &[u8]) -> Result<Outcome> {
        self.at(program::PORT_SHORTCUT, port, Origin::Interface(port), frame)
    }

    /// Attaches an XDP program natively, so that frames can be said to come in there.
    pub fn attach_xdp(&mut self, name: &str, interface: &str) -> Result<()> {
        xdp(self.ebpf_mut(), name)?.attach(interface, AttachMode::Driver)?;
        Ok(())
    }

    /// A frame at an XDP program, which is attached natively to an interface if one is named.
    pub fn frame_in_xdp(
        &mut self,
        name: &str,
        interface: Option<&str>,
        frame: &[u8],
    ) -> Result<XdpOutcome> {
        let before = counters::read(self.ebpf())?;
        xdp(self.ebpf_mut(), name)?;
        self.rejuvenate_ways()?;
        let mut context = Context::zeroed();
        context.data_end = u32::try_from(frame.len())?;
        context.ingress_ifindex = interface.map_or(Ok(0), |name| self.ifindex(name))?;
        let mut context_out = Context::zeroed();
        let mut out = vec![0; frame.len() + 256];
        let result = xdp(self.ebpf_mut(), name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            ctx_out: Some(bytemuck::bytes_of_mut(&mut context_out)),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        ensure!(out.len() == frame.len(), "the frame has another length");
        let counted = counters::moved(&before, &counters::read(self.ebpf())?);
        let verdict = match result.return_value {
            1 => XdpVerdict::Drop,
            2 => XdpVerdict::Pass,
            4 => XdpVerdict::Redirect,
            action => XdpVerdict::Other(action),
        };
        Ok(XdpOutcome { verdict, frame: out, counted })
    }

    /// Runs an XDP program so many times on a frame, at an interface if one is named: what it returned, and
    /// nanoseconds of one run.
    pub(crate) fn run_xdp(
        &mut self,
        name: &str,
        interface: Option<&str>,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(u32, f64)> {
        let mut context = Context::zeroed();
        context.data_end = u32::try_from(frame.len())?;
        context.ingress_ifindex = interface.map_or(Ok(0), |name| self.ifindex(name))?;
        let result = xdp(self.ebpf_mut(), name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok((result.return_value, result.duration.as_secs_f64() * 1e9))
    }

    /// The time of one run of an XDP program, as the kernel measures it.
    pub(super) fn measure_xdp(&mut self, name: &str, frame: &[u8]) -> Result<Duration> {
        let options = TestRunOptions { data_in: Some(frame), repeat: 1, ..Default::default() };
        Ok(xdp(self.ebpf_mut(), name)?.test_run(options)?.duration)
    }

    /// Instructions that the verifier processed for an XDP program.
    pub fn verified_xdp(&mut self, name: &str) -> Result<u32> {
        let info = xdp(self.ebpf_mut(), name)?.info()?;
        info.verified_instruction_count().context("the kernel does not tell")
    }
}

/// A loaded XDP program; loads it at its first use.
fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let found = ebpf.program_mut(name);
    let program: &mut Xdp = found.with_context(|| format!("no program {name}"))?.try_into()?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
        Err(error) => Err(error).with_context(|| format!("the verifier refuses {name}")),
    }
}

/// A session without what only time changes.
#[must_use]
pub fn timeless(session: Session) -> Session {
    let way_outbound = OutboundWay { found: 0, ..session.way_outbound };
    let way_inbound = InboundWay { found: 0, ..session.way_inbound };
    Session { last_outbound: 0, last_inbound: 0, way_outbound, way_inbound, ..session }
}

/// A frame with other MAC addresses: destination, source.
#[must_use]
pub fn with_macs(mut frame: Vec<u8>, destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame
}
