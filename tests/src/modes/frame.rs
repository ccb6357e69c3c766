//! Frames that no stack would send, put on an interface as they are.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv6Header, PacketBuilder, UdpHeader};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, sendto, socket,
};

use crate::lab::{Error, Node, Result};

/// The Ethernet address of an interface.
pub fn mac_of(node: &Node, interface: &str) -> Result<[u8; 6]> {
    let path = format!("/sys/class/net/{interface}/address");
    let text = node.enter(|| fs::read_to_string(&path))?.map_err(|source| Error::System {
        what: format!("read {path} in {}", node.name()),
        source,
    })?;
    let bytes: Option<Vec<u8>> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| Error::unexpected(path, text))
}

/// Sends a frame from its Ethernet header on out of an interface.
pub fn send(node: &Node, interface: &str, frame: &[u8]) -> Result<()> {
    let sent = node.enter(|| {
        let index = if_nametoindex(interface)?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let packet = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_ifindex: index.cast_signed(),
            ..empty_address()
        };
        // SAFETY: a whole `sockaddr_ll`, whose size is given.
        let to = unsafe {
            SockaddrStorage::from_raw(
                (&raw const address).cast(),
                Some(size_of_val(&address) as libc::socklen_t),
            )
        };
        let to = to.ok_or(nix::errno::Errno::EINVAL)?;
        sendto(packet.as_raw_fd(), frame, &to, MsgFlags::empty())
    })?;
    sent.map(drop).map_err(|source| Error::System {
        what: format!("send a frame out of {interface} in {}", node.name()),
        source: source.into(),
    })
}

fn empty_address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// A datagram between any two addresses, in a frame.
///
/// # Panics
/// If the addresses are of different families.
#[must_use]
pub fn udp(
    macs: ([u8; 6], [u8; 6]),
    addresses: (IpAddr, IpAddr),
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let ip = match addresses {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        (from, to) => panic!("{from} and {to} are of different families"),
    };
    let mut frame = Vec::new();
    let written = ip.udp(ports.0, ports.1).write(&mut frame, payload);
    written.unwrap_or_else(|error| panic!("{error}"));
    frame
}

/// A datagram of IPv6 behind extension headers: `first` is the number of the first header,
/// `headers` all of them, of which the last says 17.
///
/// # Panics
/// If the addresses are not of IPv6.
#[must_use]
pub fn udp_behind(
    macs: ([u8; 6], [u8; 6]),
    addresses: (IpAddr, IpAddr),
    ports: (u16, u16),
    (first, headers): (u8, &[u8]),
    payload: &[u8],
) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = addresses else {
        panic!("{addresses:?} are not of IPv6");
    };
    let (from, to) = (from.octets(), to.octets());
    let header = Ipv6Header {
        payload_length: (headers.len() + UdpHeader::LEN + payload.len()) as u16,
        next_header: IpNumber(first),
        hop_limit: 64,
        source: from,
        destination: to,
        ..Ipv6Header::default()
    };
    let udp = UdpHeader::with_ipv6_checksum(ports.0, ports.1, &header, payload)
        .unwrap_or_else(|error| panic!("{error}"));
    let ethernet =
        Ethernet2Header { source: macs.0, destination: macs.1, ether_type: EtherType::IPV6 };
    [&ethernet.to_bytes()[..], &header.to_bytes(), headers, &udp.to_bytes(), payload].concat()
}
