//! The yardsticks of the benchmarks. The least that a program has to do which translates one endpoint of a
//! packet and sends it on: parse, one look-up, rewrite, redirect; no policy, no state, no counters. And what a
//! new flow enters into tables of the kernel, without looking for anything.
#![no_std]
#![no_main]
#![allow(
    clippy::inline_always,
    clippy::cast_possible_wrap,
    clippy::needless_pass_by_value,
    reason = "BPF: as in the programs that are measured"
)]
// The functions that `classifier` writes have none.
#![allow(missing_docs)]

use aya_ebpf::{
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR, BPF_NOEXIST, xdp_action,
    },
    helpers::{bpf_csum_diff, bpf_redirect_neigh},
    macros::{classifier, map, xdp},
    maps::{Array, DevMapHash, HashMap},
    programs::{TcContext, XdpContext},
};
use bytemuck::Zeroable as _;
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    checksum,
    flow::{
        ExternalPort, FlowKey, FlowKey4, FlowKey6, FlowSlot, Mapping, MappingKey, PortHolder,
        Session, protocol,
    },
    minimum::Rewrite,
};

const FLOWS: u32 = 1 << 10;
const NEW_FLOWS: u32 = 1 << 17;
/// `TC_ACT_UNSPEC`
const NEXT: i32 = -1;
/// `TC_ACT_OK`
const OPENED: i32 = 0;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const ETHERNET_LEN: usize = 14;
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const TRANSPORT: usize = ETHERNET_LEN + 20;
const TRANSPORT_IPV6: usize = ETHERNET_LEN + 40;

#[map]
static OUTBOUND: HashMap<FlowKey4, Rewrite> = HashMap::with_max_entries(FLOWS, 0);

#[map]
static OUTBOUND_IPV6: HashMap<FlowKey6, Rewrite> = HashMap::with_max_entries(FLOWS, 0);

#[map]
static DEVICES: DevMapHash = DevMapHash::with_max_entries(FLOWS, 0);

// As the datapath's.
#[map]
static FLOW_KEYS: HashMap<FlowKey4, FlowSlot> = HashMap::with_max_entries(2 * NEW_FLOWS, 0);

#[map]
static FLOW_KEYS_IPV6: HashMap<FlowKey6, FlowSlot> =
    HashMap::with_max_entries(2 * NEW_FLOWS, BPF_F_NO_PREALLOC);

#[map]
static MAPPINGS: HashMap<MappingKey, Mapping> = HashMap::with_max_entries(NEW_FLOWS, 0);

#[map]
static PORTS: HashMap<ExternalPort, PortHolder> = HashMap::with_max_entries(NEW_FLOWS, 0);

#[map]
static SESSIONS: Array<Session> = Array::with_max_entries(NEW_FLOWS, 0);

#[map]
static USED: Array<u32> = Array::with_max_entries(1, 0);

/// An IPv4 packet with the first words of what it carries.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Ipv4Frame {
    link: [u8; 12],
    ethertype: u16,
    version_and_length: u8,
    service: u8,
    length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: Ipv4Be,
    destination: Ipv4Be,
    source_port: PortBe,
    destination_port: PortBe,
}

/// The same of IPv6.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Ipv6Frame {
    link: [u8; 12],
    ethertype: u16,
    version_and_label: [u8; 4],
    length: u16,
    protocol: u8,
    ttl: u8,
    source: Address,
    destination: Address,
    source_port: PortBe,
    destination_port: PortBe,
}

impl Ipv4Frame {
    /// What becomes of the packet, if anything.
    #[inline(always)]
    fn rewrite(&self) -> Option<&'static Rewrite> {
        if self.version_and_length != 0x45
            || self.fragment & 0x3fff_u16.to_be() != 0
            || self.ttl <= 1
        {
            return None;
        }
        let source = (self.source, self.source_port);
        let destination = (self.destination, self.destination_port);
        // SAFETY: nobody removes entries.
        unsafe { OUTBOUND.get(FlowKey::outbound(self.protocol, source, destination)) }
    }
}

impl Ipv6Frame {
    /// As [`Ipv4Frame::rewrite`].
    #[inline(always)]
    fn rewrite(&self) -> Option<&'static Rewrite> {
        if self.ttl <= 1 {
            return None;
        }
        let source = (self.source, self.source_port);
        let destination = (self.destination, self.destination_port);
        // SAFETY: nobody removes entries.
        unsafe { OUTBOUND_IPV6.get(FlowKey::outbound(self.protocol, source, destination)) }
    }

    /// Writes a source and counts the hop limit down.
    #[inline(always)]
    fn translate(&mut self, address: Address, port: PortBe) {
        self.source = address;
        self.source_port = port;
        self.ttl -= 1;
    }
}

/// Nothing at all: what a run costs by itself.
#[classifier]
pub fn nothing(_ctx: TcContext) -> i32 {
    NEXT
}

/// As `nothing`, at XDP.
#[xdp]
pub fn nothing_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[classifier]
pub fn minimum(ctx: TcContext) -> i32 {
    let start = ctx.data();
    if start + size_of::<Ipv4Frame>() > ctx.data_end() {
        return NEXT;
    }
    // SAFETY: checked against the packet's end; any bytes are a frame; alignment is 1.
    let frame = unsafe { &*(start as *const Ipv4Frame) };
    match frame.ethertype {
        IPV4 => ipv4(&ctx, frame).unwrap_or(NEXT),
        IPV6 => ipv6(&ctx).unwrap_or(NEXT),
        _ => NEXT,
    }
}

/// Enters a flow that there is not yet, and leaves its packet alone.
#[classifier]
pub fn tables(ctx: TcContext) -> i32 {
    let start = ctx.data();
    if start + size_of::<Ipv4Frame>() > ctx.data_end() {
        return NEXT;
    }
    // SAFETY: as in `minimum`.
    let frame = unsafe { &*(start as *const Ipv4Frame) };
    if frame.ethertype == IPV4 {
        let from = (frame.source, frame.source_port);
        let to = (frame.destination, frame.destination_port);
        let widen = |(address, port): (Ipv4Be, _)| (Address::from_ipv4(address), port);
        return enter(&FLOW_KEYS, frame.protocol, (from, to), (widen(from), widen(to)));
    }
    if frame.ethertype != IPV6 || start + size_of::<Ipv6Frame>() > ctx.data_end() {
        return NEXT;
    }
    // SAFETY: as in `minimum`.
    let frame = unsafe { &*(start as *const Ipv6Frame) };
    let from = (frame.source, frame.source_port);
    let to = (frame.destination, frame.destination_port);
    enter(&FLOW_KEYS_IPV6, frame.protocol, (from, to), (from, to))
}

/// A port, a mapping, a session and two keys; `OPENED`, or `NEXT` if one is there already or there is no room.
#[inline(always)]
fn enter<A>(
    keys: &HashMap<FlowKey<A>, FlowSlot>,
    protocol: u8,
    (from, to): ((A, PortBe), (A, PortBe)),
    (inside, remote): ((Address, PortBe), (Address, PortBe)),
) -> i32
where
    A: Copy,
{
    let Some(used) = USED.get_ptr_mut(0) else { return NEXT };
    // SAFETY: one program at a time runs in a benchmark; map memory outlives it.
    let index = unsafe {
        *used += 1;
        *used
    };
    let new = u64::from(BPF_NOEXIST);
    let port = ExternalPort { external: inside.0, port: inside.1, protocol, reserved: 0 };
    let holder =
        PortHolder { inside: inside.0, uplink_ifindex: 1, inside_port: inside.1, network: 1 };
    let key = MappingKey {
        inside: inside.0,
        external: remote.0,
        inside_port: inside.1,
        protocol,
        reserved: 0,
    };
    let mapping = Mapping {
        inside: inside.0,
        references: 1,
        own: 1,
        idle_since: 0,
        inside_port: inside.1,
        external_port: inside.1,
        protocol,
        reserved: [0; 3],
    };
    if PORTS.insert(port, holder, new).is_err() || MAPPINGS.insert(key, mapping, new).is_err() {
        return NEXT;
    }
    let Some(session) = SESSIONS.get_ptr_mut(index) else { return NEXT };
    // SAFETY: the element is this program's alone.
    let session = unsafe { &mut *session };
    *session = Session::zeroed();
    (session.inside, session.inside_port) = inside;
    (session.remote, session.remote_port) = remote;
    session.protocol = protocol;
    let slot = FlowSlot { index, generation: 1 };
    let outbound = FlowKey::outbound(protocol, from, to);
    let inbound = FlowKey::inbound(protocol, to, from);
    if keys.insert(outbound, slot, new).is_err() || keys.insert(inbound, slot, new).is_err() {
        return NEXT;
    }
    OPENED
}

#[inline(always)]
fn ipv4(ctx: &TcContext, frame: &Ipv4Frame) -> Option<i32> {
    let (offset, zero) = checksum_of(frame.protocol)?;
    let (source, port) = (frame.source, frame.source_port);
    let to = frame.rewrite()?;
    let address = to.address.ipv4_part();
    let at = TRANSPORT + offset;
    let flags = u64::from(BPF_F_PSEUDO_HDR) | zero | 4;
    ctx.l4_csum_replace(at, source.to_wire().into(), address.to_wire().into(), flags).ok()?;
    ctx.l4_csum_replace(at, port.to_wire().into(), to.port.to_wire().into(), zero | 2).ok()?;
    let start = ctx.data();
    if start + size_of::<Ipv4Frame>() > ctx.data_end() {
        return None;
    }
    // SAFETY: checked against the packet's end; the packet is this program's alone while it runs.
    let frame = unsafe { &mut *(start as *mut Ipv4Frame) };
    translate_ipv4(frame, address, to.port);
    let next_hop = [to.next_hop.ipv4_part().to_wire(), 0, 0, 0];
    Some(redirect(to.ifindex, Neighbour { family: AF_INET, next_hop }))
}

#[inline(always)]
fn ipv6(ctx: &TcContext) -> Option<i32> {
    let start = ctx.data();
    if start + size_of::<Ipv6Frame>() > ctx.data_end() {
        return None;
    }
    // SAFETY: as in `minimum`.
    let frame = unsafe { &*(start as *const Ipv6Frame) };
    let (offset, zero) = checksum_of(frame.protocol)?;
    let (source, port) = (frame.source, frame.source_port);
    let to = frame.rewrite()?;
    let at = TRANSPORT_IPV6 + offset;
    let (mut from, mut address) = (source.to_wire(), to.address.to_wire());
    // SAFETY: both arrays are as long as told.
    let difference = unsafe { bpf_csum_diff(from.as_mut_ptr(), 16, address.as_mut_ptr(), 16, 0) };
    let flags = u64::from(BPF_F_PSEUDO_HDR) | zero;
    ctx.l4_csum_replace(at, 0, difference.cast_unsigned() & 0xffff_ffff, flags).ok()?;
    ctx.l4_csum_replace(at, port.to_wire().into(), to.port.to_wire().into(), zero | 2).ok()?;
    let start = ctx.data();
    if start + size_of::<Ipv6Frame>() > ctx.data_end() {
        return None;
    }
    // SAFETY: as in `ipv4`.
    let frame = unsafe { &mut *(start as *mut Ipv6Frame) };
    frame.translate(to.address, to.port);
    Some(redirect(to.ifindex, Neighbour { family: AF_INET6, next_hop: to.next_hop.to_wire() }))
}

/// The same at XDP, of IPv4 and IPv6 over UDP and TCP.
#[xdp]
pub fn minimum_xdp(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + size_of::<Ipv4Frame>() + 18 > ctx.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: as in `ipv4`.
    let frame = unsafe { &mut *(start as *mut Ipv4Frame) };
    match frame.ethertype {
        IPV4 => xdp_ipv4(frame, start).unwrap_or(xdp_action::XDP_PASS),
        IPV6 => xdp_ipv6(&ctx).unwrap_or(xdp_action::XDP_PASS),
        _ => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn xdp_ipv4(frame: &mut Ipv4Frame, start: usize) -> Option<u32> {
    let (offset, _) = checksum_of(frame.protocol)?;
    let (source, port) = (frame.source, frame.source_port);
    let to = frame.rewrite()?;
    let address = to.address.ipv4_part();
    // SAFETY: 18 bytes behind the ports were checked; both offsets are within.
    let sum = unsafe { &mut *((start + TRANSPORT + offset) as *mut [u8; 2]) };
    let changed =
        checksum::replace_long(u16::from_ne_bytes(*sum), source.to_wire(), address.to_wire());
    *sum = checksum::replace_word(changed, port.to_wire(), to.port.to_wire()).to_ne_bytes();
    translate_ipv4(frame, address, to.port);
    frame.link = to.link;
    Some(DEVICES.redirect(to.ifindex, 0).unwrap_or(xdp_action::XDP_ABORTED))
}

#[inline(always)]
fn xdp_ipv6(ctx: &XdpContext) -> Option<u32> {
    let start = ctx.data();
    if start + size_of::<Ipv6Frame>() + 18 > ctx.data_end() {
        return None;
    }
    // SAFETY: as in `ipv4`.
    let frame = unsafe { &mut *(start as *mut Ipv6Frame) };
    let (offset, _) = checksum_of(frame.protocol)?;
    let (source, port) = (frame.source, frame.source_port);
    let to = frame.rewrite()?;
    // SAFETY: as in `xdp_ipv4`.
    let sum = unsafe { &mut *((start + TRANSPORT_IPV6 + offset) as *mut [u8; 2]) };
    let (from, address) = (source.to_wire(), to.address.to_wire());
    let mut changed = u16::from_ne_bytes(*sum);
    for (from, to) in from.into_iter().zip(address) {
        changed = checksum::replace_long(changed, from, to);
    }
    *sum = checksum::replace_word(changed, port.to_wire(), to.port.to_wire()).to_ne_bytes();
    frame.translate(to.address, to.port);
    frame.link = to.link;
    Some(DEVICES.redirect(to.ifindex, 0).unwrap_or(xdp_action::XDP_ABORTED))
}

/// Writes a source and counts the time to live down.
#[inline(always)]
fn translate_ipv4(frame: &mut Ipv4Frame, address: Ipv4Be, port: PortBe) {
    let old = frame.source.to_wire();
    let sum = checksum::replace_long(frame.checksum, old, address.to_wire());
    let word = |ttl: u8| u16::from_ne_bytes([ttl, frame.protocol]);
    frame.checksum = checksum::replace_word(sum, word(frame.ttl), word(frame.ttl - 1));
    frame.ttl -= 1;
    frame.source = address;
    frame.source_port = port;
}

/// Where the checksum lies, and how the kernel is told that zero is none.
#[inline(always)]
fn checksum_of(ip_protocol: u8) -> Option<(usize, u64)> {
    match ip_protocol {
        protocol::TCP => Some((16, 0)),
        protocol::UDP => Some((6, BPF_F_MARK_MANGLED_0.into())),
        _ => None,
    }
}

/// `struct bpf_redir_neigh` of the kernel's `include/uapi/linux/bpf.h`.
#[repr(C)]
struct Neighbour {
    family: u32,
    next_hop: [u32; 4],
}

#[inline(always)]
fn redirect(ifindex: u32, mut neighbour: Neighbour) -> i32 {
    let length = size_of::<Neighbour>() as i32;
    // SAFETY: the parameters are laid out as the kernel's and as long as told.
    unsafe { bpf_redirect_neigh(ifindex, (&raw mut neighbour).cast(), length, 0) as i32 }
}

// What the helpers used here ask of the kernel.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program gets here.
    loop {}
}
