//! The port guard: what a guest may send, whatever its network's mode.
//!
//! Everything here is said by a guest that may be hostile: every length is checked against the
//! packet, every loop has a bound, and what cannot be read does not pass.

mod arp;
mod guest;
mod ipv4;
mod ipv6;
mod maps;
mod neighbour;

use bytemuck::{Pod, Zeroable};
use vnet_common::{
    guard::{Mac, flags},
    reason::DropReason,
};

use crate::{
    hook::{Hook, Step, Verdict},
    skb::Skb,
    tables,
};
use guest::Guest;

/// What a check of the guard says.
type Check = Result<(), DropReason>;

/// `include/uapi/linux/if_ether.h`
mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const RARP: u16 = 0x8035;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    pub const SERVICE_VLAN: u16 = 0x88a8;
    pub const QINQ: u16 = 0x9100;
}

/// An Ethernet header in words of 16 bits, as they lie in the frame.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EthernetHeader {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: u16,
}

const ETHERNET_LEN: u32 = size_of::<EthernetHeader>() as u32;
const TAG_LEN: u32 = 4;
/// The part of a tag that names a VLAN; a frame with 0 there has only a priority (IEEE 802.1Q, 9.6).
const VLAN_ID: u32 = 0xfff;

/// What lies behind the Ethernet header.
struct Payload {
    ethertype: u16,
    /// Bytes in front of it.
    offset: u32,
    /// It belongs to a VLAN of the guest's choice.
    tagged: bool,
}

/// A frame from a guest.
#[inline(always)]
pub fn from_guest(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    tables::begin();
    let port = guest::port_of(skb.ifindex()).ok_or(DropReason::NoNetwork)?;
    hook.network = port.network;
    let mut header = EthernetHeader::zeroed();
    load(skb, 0, &mut header)?;
    let payload = payload_of(skb, &header)?;
    if payload.tagged && port.flags & flags::TAGS != 0 {
        return Err(DropReason::TaggedFrame.into());
    }
    let source = Mac::from_bytes(header.source);
    let guest = Guest::identify(port, skb.ifindex(), source)?;
    if guest.checks(flags::MAC) && source != guest.mac {
        return Err(DropReason::SpoofedMac.into());
    }
    check_payload(skb, &guest, &payload)?;
    Ok(Verdict::Pass)
}

/// The kernel has put the outermost tag out of band; one more may lie in the data.
#[inline(always)]
fn payload_of(skb: Skb, header: &EthernetHeader) -> Result<Payload, DropReason> {
    let outer = skb.vlan_present() != 0 && skb.vlan_tci() & VLAN_ID != 0;
    let ethertype = u16::from_be(header.ethertype);
    if !is_tag(ethertype) {
        return Ok(Payload { ethertype, offset: ETHERNET_LEN, tagged: outer });
    }
    let mut tag = [0_u16; 2];
    load(skb, ETHERNET_LEN, &mut tag)?;
    let [inner, ethertype] = tag.map(u16::from_be);
    if is_tag(ethertype) {
        return Err(DropReason::TaggedFrame);
    }
    let tagged = outer || u32::from(inner) & VLAN_ID != 0;
    Ok(Payload { ethertype, offset: ETHERNET_LEN + TAG_LEN, tagged })
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN | ethertype::QINQ)
}

#[inline(always)]
fn check_payload(skb: Skb, guest: &Guest, payload: &Payload) -> Check {
    if !guest.checks(flags::MAC | flags::ADDRESSES | flags::SERVERS) {
        return Ok(());
    }
    match payload.ethertype {
        ethertype::IPV4 => ipv4::check(skb, payload.offset, guest),
        ethertype::IPV6 => ipv6::check(skb, payload.offset, guest),
        ethertype::ARP => arp::check(skb, payload.offset, guest),
        ethertype::RARP => arp::check_reverse(skb, payload.offset, guest),
        _ if guest.checks(flags::ADDRESSES) => Err(DropReason::UncheckedProtocol),
        _ => Ok(()),
    }
}

/// Copies bytes of the frame; one that ends before is malformed.
#[inline(always)]
fn load<T: Pod>(skb: Skb, offset: u32, to: &mut T) -> Check {
    skb.load(offset as usize, to).ok_or(DropReason::Malformed)
}
