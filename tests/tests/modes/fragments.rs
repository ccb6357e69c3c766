//! Datagrams whose fragments come in any order, between real stacks (RFC 4787, REQ-14).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use vnet_common::reason::Handover;
use vnet_tests::lab::require_root;
use vnet_tests::modes::{Forward, Net, Place, Rig, Uplink, frame};
use vnet_tests::programs::udp;
use vnet_tests::vnet::Vnet;

use crate::support::DEADLINE;

/// Every order of three fragments.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
/// Bytes of a datagram, and of each of its fragments.
const LENGTH: usize = 4000;
const SIZE: usize = 1440;

/// A machine with its socket.
struct End<'a> {
    place: &'a Place,
    socket: UdpSocket,
    address: SocketAddr,
}

impl<'a> End<'a> {
    fn bind(place: &'a Place, address: IpAddr, port: u16) -> Result<Self> {
        let address = SocketAddr::new(address, port);
        let socket = place.node.enter(|| UdpSocket::bind(address))??;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { place, socket, address })
    }

    /// Sends a datagram of these bytes to `to`, its fragments in an order of choice.
    fn send(&self, rig: &Rig, to: SocketAddr, bytes: &[u8], order: [usize; 3]) -> Result<()> {
        let datagram = udp(&self.address.to_string(), &to.to_string()).payload(bytes);
        // The bytes begin with a number of their own, which makes the identification one.
        let fragments =
            datagram.identification(u16::from_be_bytes([bytes[0], bytes[1]])).fragments(SIZE);
        let (own, hosts) = rig.macs_to_host(self.place)?;
        for place in order {
            let frame = [&hosts[..], &own, &fragments[place][12..]].concat();
            frame::send(&self.place.node, "eth0", &frame)?;
        }
        Ok(())
    }

    /// Receives exactly these bytes; who sent them.
    fn expect(&self, bytes: &[u8]) -> Result<SocketAddr> {
        let mut received = vec![0; LENGTH + 1];
        let (length, from) = self.socket.recv_from(&mut received).context("nothing came")?;
        assert!(received[..length] == *bytes, "{length} bytes of {}", bytes.len());
        Ok(from)
    }
}

/// The bytes of one datagram.
fn content(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let rest = (2..LENGTH).map(|place| (place as u16).wrapping_mul(31).wrapping_add(number) as u8);
    [high, low].into_iter().chain(rest).collect()
}

#[test]
fn datagrams_arrive_whole_whatever_the_order_of_their_fragments() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let addresses = ["10.10.1.1/24", "fd00:10:1::1/64"];
    let net = Net::new("nat", Forward::Nat, "virbr1", &addresses).nat66();
    let rig = Rig::with_uplinks(vec![net], &[Uplink::X])?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let (outside, host) = (rig.place("X"), rig.place("host"));
    let mut number = 1;
    for (turn, guest) in ["nat.1", "nat.2"].into_iter().enumerate() {
        for address in outside.addresses.clone() {
            let server = End::bind(outside, address, 7000 + turn as u16)?;
            let guest = rig.place(guest);
            let client = End::bind(guest, guest.address_like(address), 20_000 + turn as u16)?;
            let external = host_side(address)?;
            let own = End::bind(host, external, 9000)?;
            // The stacks get to know their neighbours.
            client.socket.send_to(b"hello", server.address)?;
            let client_seen = server.expect(b"hello")?;
            assert_eq!(client_seen, SocketAddr::new(external, client.address.port()));
            for order in ORDERS {
                let (question, answer, for_the_host) =
                    (content(number), content(number + 1), content(number + 2));
                number += 3;
                let case = || format!("{} {address} {order:?}", guest.name);
                client.send(&rig, server.address, &question, order)?;
                let from = server.expect(&question).with_context(|| format!("out: {}", case()))?;
                assert_eq!(from, client_seen);
                server.send(&rig, from, &answer, order)?;
                let from = client.expect(&answer).with_context(|| format!("in: {}", case()))?;
                assert_eq!(from, server.address);
                server.send(&rig, own.address, &for_the_host, order)?;
                own.expect(&for_the_host).with_context(|| format!("host: {}", case()))?;
            }
        }
    }
    assert!(vnet.handovers(Handover::HeldFragment)? >= 2 * 2 * 4);
    vnet.stop()?;
    Ok(())
}

/// The host's address beside an outside one.
fn host_side(outside: IpAddr) -> Result<IpAddr> {
    let place = usize::from(outside.is_ipv6());
    let (address, _) = Uplink::X.host[place].split_once('/').context("a prefix")?;
    Ok(address.parse()?)
}
