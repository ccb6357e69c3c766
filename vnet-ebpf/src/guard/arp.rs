//! ARP (RFC 826) and the reverse ARP by which a hypervisor announces a guest that has moved.

use bytemuck::{Pod, Zeroable};
use vnet_common::{
    address::{Address, Ipv4Be},
    guard::{Mac, flags},
    reason::DropReason,
};

use super::{Check, ethertype, guest::Guest, load};
use crate::skb::Skb;

const HARDWARE_ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const REVERSE_REQUEST: u16 = 3;

/// A message about Ethernet and IPv4, as it lies in the frame; addresses are not aligned.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Message {
    hardware: u16,
    protocol: u16,
    hardware_length: u8,
    protocol_length: u8,
    operation: u16,
    sender_mac: [u8; 6],
    sender: [u8; 4],
    target_mac: [u8; 6],
    target: [u8; 4],
}

const _: () = assert!(size_of::<Message>() == 28);

impl Message {
    #[inline(always)]
    fn read(skb: Skb, offset: u32) -> Result<Self, DropReason> {
        let mut message = Self::zeroed();
        load(skb, offset, &mut message)?;
        let fits = u16::from_be(message.hardware) == HARDWARE_ETHERNET
            && u16::from_be(message.protocol) == ethertype::IPV4
            && message.hardware_length == 6
            && message.protocol_length == 4;
        if fits { Ok(message) } else { Err(DropReason::Malformed) }
    }

    #[inline(always)]
    fn sender(&self) -> Ipv4Be {
        Ipv4Be::from_wire(u32::from_ne_bytes(self.sender))
    }

    #[inline(always)]
    fn target(&self) -> Ipv4Be {
        Ipv4Be::from_wire(u32::from_ne_bytes(self.target))
    }
}

#[inline(always)]
pub fn check(skb: Skb, offset: u32, guest: &Guest) -> Check {
    let message = Message::read(skb, offset)?;
    let operation = u16::from_be(message.operation);
    if operation != REQUEST && operation != REPLY {
        return Err(DropReason::SpoofedNeighbour);
    }
    if guest.checks(flags::MAC) && Mac::from_bytes(message.sender_mac) != guest.mac {
        return Err(DropReason::SpoofedNeighbour);
    }
    if !guest.checks(flags::ADDRESSES) {
        return Ok(());
    }
    let sender = message.sender();
    let is_own = if sender == Ipv4Be::UNSPECIFIED {
        // A probe makes others give an address up that they are just about to take (RFC 5227,
        // section 2.1.1).
        operation == REQUEST && guest.may_probe(Address::from_ipv4(message.target()))
    } else {
        guest.may_use(Address::from_ipv4(sender))
    };
    if is_own { Ok(()) } else { Err(DropReason::SpoofedNeighbour) }
}

/// Only what QEMU sends of itself after a migration (`qemu_announce_self`, `net/announce.c`), so that
/// switches learn the new port.
#[inline(always)]
pub fn check_reverse(skb: Skb, offset: u32, guest: &Guest) -> Check {
    let message = Message::read(skb, offset)?;
    let is_own = Mac::from_bytes(message.sender_mac) == guest.mac
        && Mac::from_bytes(message.target_mac) == guest.mac;
    let claims_nothing = u16::from_be(message.operation) == REVERSE_REQUEST
        && message.sender() == Ipv4Be::UNSPECIFIED
        && message.target() == Ipv4Be::UNSPECIFIED;
    if claims_nothing && (is_own || !guest.checks(flags::MAC)) {
        Ok(())
    } else {
        Err(DropReason::SpoofedNeighbour)
    }
}
