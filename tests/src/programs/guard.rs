//! Guests' ports under the guard, and the frames that guests send there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use aya::maps::lpm_trie::{Key, LpmTrie};
use bytemuck::Zeroable as _;
use vnet_common::{
    address::Address,
    guard::{
        AddressHolder, AddressKey, GuestPort, Learned, Mac, MacKey, ROUTE_KEY_BRIDGE_BITS,
        RouteKey, flags,
    },
    names::{map, program},
};

use super::load::{self, Plain};
use super::outcome::Outcome;
use super::rig::{NETWORK, Rig};
use super::run::Origin;

/// MAC address of the guest at `port0`, whose frames [`super::Packet`] makes.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x01];
/// MAC address of another guest of the bridge.
pub const OTHER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x02];
/// The link-local address that follows from [`GUEST_MAC`].
pub const GUEST_LINK_LOCAL: &str = "fe80::5054:ff:fe00:1";
/// A global address of the guest.
pub const GUEST_IPV6: &str = "2001:db8:122::10";

const EVERYTHING: u16 = flags::MAC | flags::ADDRESSES | flags::SERVERS | flags::TAGS;
const ETHERNET_LEN: usize = 14;

impl Rig {
    /// Puts a guest's port of `virbr0` under the guard, with every check on and nothing to learn.
    pub fn guard(&mut self, name: &str, change: impl FnOnce(&mut GuestPort)) -> Result<()> {
        let (ifindex, bridge) = (self.ifindex(name)?, self.ifindex("virbr0")?);
        let mut port = GuestPort {
            mac: Mac::from_bytes(GUEST_MAC),
            bridge,
            network: NETWORK,
            flags: EVERYTHING,
            learn_ipv4: 0,
            learn_ipv6: 0,
            reserved: 0,
        };
        change(&mut port);
        load::hash_mut::<u32, GuestPort>(self.ebpf_mut(), map::GUARD_PORTS)?.insert(
            Plain(ifindex),
            Plain(port),
            0,
        )?;
        load::hash_mut::<u32, Learned>(self.ebpf_mut(), map::GUARD_LEARNED)?.insert(
            Plain(ifindex),
            Plain(Learned::zeroed()),
            0,
        )?;
        if port.mac != Mac::NONE {
            let key = MacKey::new(bridge, port.mac);
            load::hash_mut::<MacKey, u32>(self.ebpf_mut(), map::GUARD_MACS)?.insert(
                Plain(key),
                Plain(ifindex),
                0,
            )?;
        }
        Ok(())
    }

    /// Gives a guest of `virbr0` an address.
    pub fn give_address(&mut self, mac: [u8; 6], address: &str) -> Result<()> {
        let key = AddressKey { bridge: self.ifindex("virbr0")?, address: any_address(address) };
        let holder =
            AddressHolder { mac: Mac::from_bytes(mac), seen: 0, learned_at: 0, reserved: 0 };
        let mut holders = load::hash_mut(self.ebpf_mut(), map::GUARD_ADDRESSES)?;
        Ok(holders.insert(Plain(key), Plain(holder), 0)?)
    }

    /// Routes a prefix of `virbr0` to a guest's address.
    pub fn route_behind_guest(&mut self, prefix: &str, length: u32, gateway: &str) -> Result<()> {
        let bridge = self.ifindex("virbr0")?;
        let address = any_address(prefix);
        let family = if address.is_ipv4() { Address::IPV4_PREFIX_BITS } else { 0 };
        let key =
            Key::new(ROUTE_KEY_BRIDGE_BITS + family + length, Plain(RouteKey { bridge, address }));
        let found = load::found_mut(self.ebpf_mut(), map::GUARD_ROUTES)?;
        let mut routes = LpmTrie::<_, Plain<RouteKey>, Plain<Address>>::try_from(found)?;
        Ok(routes.insert(&key, Plain(any_address(gateway)), 0)?)
    }

    /// Makes an IPv6 prefix one of the network's own.
    pub fn add_ipv6_subnet(&mut self, slot: u16, prefix: &str, length: u32) -> Result<()> {
        self.add_subnet(slot, &format!("{prefix}/{length}"), 0)
    }

    /// Who holds an address of `virbr0`.
    pub fn holder(&self, address: &str) -> Result<Option<[u8; 6]>> {
        let key = AddressKey { bridge: self.ifindex("virbr0")?, address: any_address(address) };
        let holders = load::hash::<AddressKey, AddressHolder>(self.ebpf(), map::GUARD_ADDRESSES)?;
        match holders.get(&Plain(key), 0) {
            Ok(holder) => Ok(Some(holder.0.mac.to_bytes())),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// As if a learned address of `virbr0` had been used that long ago.
    pub fn let_rest(&mut self, address: &str, nanoseconds: u64) -> Result<()> {
        let key =
            Plain(AddressKey { bridge: self.ifindex("virbr0")?, address: any_address(address) });
        let mut holders =
            load::hash_mut::<AddressKey, AddressHolder>(self.ebpf_mut(), map::GUARD_ADDRESSES)?;
        let mut holder = holders.get(&key, 0)?.0;
        holder.seen = holder.seen.saturating_sub(nanoseconds);
        Ok(holders.insert(key, Plain(holder), 0)?)
    }

    /// What the guard has learned at a port.
    pub fn learned(&self, name: &str) -> Result<Learned> {
        let learned = load::hash::<u32, Learned>(self.ebpf(), map::GUARD_LEARNED)?;
        Ok(learned.get(&Plain(self.ifindex(name)?), 0)?.0)
    }

    /// A frame at the ingress of `port0`.
    pub fn at_port(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.at_port_of("port0", frame)
    }

    /// A frame at the ingress of a port.
    pub fn at_port_of(&mut self, port: &str, frame: &[u8]) -> Result<Outcome> {
        self.at(program::PORT_GUARD, port, Origin::Interface(port), frame)
    }
}

/// An address of either family as the tables hold it.
#[must_use]
pub fn any_address(text: &str) -> Address {
    Address::from_addr(text.parse().unwrap_or_else(|_| panic!("no address: {text}")))
}

/// A frame of the guest at `port0` to the host.
#[must_use]
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    ethernet_from(GUEST_MAC, ethertype, payload)
}

/// A frame to the host.
#[must_use]
pub fn ethernet_from(source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let host = [0x52, 0x54, 0, 0, 0, 0xfe];
    [host.as_slice(), &source, &ethertype.to_be_bytes(), payload].concat()
}

/// The same frame with a VLAN tag in its data.
#[must_use]
pub fn tagged(frame: &[u8], ethertype: u16, id: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &ethertype.to_be_bytes(), &id.to_be_bytes(), rest].concat()
}

/// The same frame from another MAC address.
#[must_use]
pub fn from_mac(mut frame: Vec<u8>, source: [u8; 6]) -> Vec<u8> {
    frame[6..12].copy_from_slice(&source);
    frame
}

/// An ARP message for Ethernet and IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// 1 request, 2 reply, 3 reverse request, 4 reverse reply.
    pub operation: u16,
    /// Sender's hardware address.
    pub sender_mac: [u8; 6],
    /// Sender's protocol address.
    pub sender: [u8; 4],
    /// Target's hardware address.
    pub target_mac: [u8; 6],
    /// Target's protocol address.
    pub target: [u8; 4],
}

impl Arp {
    /// The guest's message from an address about another.
    #[must_use]
    pub fn new(operation: u16, sender: &str, target: &str) -> Self {
        let octets = |text: &str| text.parse::<Ipv4Addr>().expect("an IPv4 address").octets();
        Self {
            operation,
            sender_mac: GUEST_MAC,
            sender: octets(sender),
            target_mac: [0; 6],
            target: octets(target),
        }
    }

    /// From the hardware type on.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let fixed = [0, 1, 8, 0, 6, 4];
        [
            fixed.as_slice(),
            &self.operation.to_be_bytes(),
            &self.sender_mac,
            &self.sender,
            &self.target_mac,
            &self.target,
        ]
        .concat()
    }

    /// As the guest's frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        ethernet(0x0806, &self.message())
    }
}

/// A frame with an IPv6 packet from the guest.
#[must_use]
pub fn ipv6(source: &str, destination: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |text: &str| match text.parse() {
        Ok(IpAddr::V6(address)) => Ipv6Addr::octets(&address),
        _ => panic!("no IPv6 address: {text}"),
    };
    let length = u16::try_from(payload.len()).expect("a payload of a valid length");
    let header = [0x60, 0, 0, 0];
    let [high, low] = length.to_be_bytes();
    let packet = [
        header.as_slice(),
        &[high, low, next_header, 255],
        &octets(source),
        &octets(destination),
        payload,
    ];
    ethernet(0x86dd, &packet.concat())
}

/// An `ICMPv6` message of neighbour discovery about a target, with options.
#[must_use]
pub fn discovery(kind: u8, target: Option<&str>, options: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    if let Some(target) = target {
        message.extend(target.parse::<Ipv6Addr>().expect("an IPv6 address").octets());
    }
    message.extend(options.concat());
    message
}

/// The option of neighbour discovery with a link-layer address: 1 of the source, 2 of the target.
#[must_use]
pub fn link_layer_option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [[kind, 1].as_slice(), &mac].concat()
}

/// An extension header of eight bytes in front of what is given.
#[must_use]
pub fn extension(next_header: u8, rest: &[u8]) -> Vec<u8> {
    [&[next_header, 0, 1, 4, 0, 0, 0, 0], rest].concat()
}

/// A fragment header; `offset` in units of eight bytes.
#[must_use]
pub fn fragment(next_header: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[next_header, 0, high, low, 0, 0, 0, 7], rest].concat()
}

/// A UDP header and a few bytes.
#[must_use]
pub fn udp_message(source: u16, destination: u16) -> Vec<u8> {
    let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
    [source.as_slice(), &destination, &[0, 12, 0, 0], b"data"].concat()
}

/// What lies behind the Ethernet header.
#[must_use]
pub fn payload(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET_LEN..]
}
