//! Rejected packets of real stacks, with partial checksums and segmentation offload.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::tc::TcAttachType::{Egress, Ingress};
use vnet_common::{names::program, policy::Mode};
use vnet_tests::lab::{
    CapturedPacket, Checksum, Node, StandardLab, listing, require_root, services::TcpEcho,
};
use vnet_tests::programs::*;

const DEADLINE: Duration = Duration::from_secs(20);
const FORBIDDEN: &str = "192.168.123.9:80";

/// The standard lab with our programs on `virbr0` and `eth0`, and another network on `virbr1`.
fn rejecting_lab() -> Result<(StandardLab, Rig)> {
    let lab = StandardLab::new()?;
    lab.host.forwarding(true)?;
    lab.host.bridge("virbr1", &["192.168.123.1/24"])?;
    let mut rig = Rig::on(&lab.host)?;
    rig.add_network(NETWORK, "virbr0", Mode::Nat, &["192.168.122.0/24"])?;
    rig.add_network(OTHER_NETWORK, "virbr1", Mode::Nat, &["192.168.123.0/24"])?;
    rig.set_network(NETWORK, |network| network.gateway = ipv4(GATEWAY))?;
    rig.set_uplink("eth0", &["203.0.113.2/24"])?;
    for bridge in ["virbr0", "virbr1"] {
        rig.attach(program::BRIDGE_INGRESS, bridge, Ingress)?;
        rig.attach(program::BRIDGE_EGRESS, bridge, Egress)?;
    }
    rig.attach(program::UPLINK_INGRESS, "eth0", Ingress)?;
    rig.attach(program::UPLINK_EGRESS, "eth0", Egress)?;
    Ok((lab, rig))
}

/// Runs `work` on each guest and checks the ICMP errors that it gets.
fn on_each_guest(
    code: u8,
    change: impl Fn(&mut Rig) -> Result<()>,
    work: impl Fn(&Node) -> Result<ErrorKind>,
    expected: ErrorKind,
) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (lab, mut rig) = rejecting_lab()?;
    change(&mut rig)?;
    for guest in [&lab.tap_guest, &lab.veth_guest] {
        let capture = guest.capture("eth0", "icmp")?;
        assert_eq!(work(guest)?, expected, "at {}", guest.name());
        let seen = capture.wait_for(|packet| packet.icmp().is_some(), DEADLINE)?;
        check_error(&seen, GATEWAY, code)?;
    }
    Ok(())
}

/// An ICMP error of ours: complete checksums, the length of one with the shortest quote.
fn check_error(packet: &CapturedPacket, from: &str, code: u8) -> Result<()> {
    ensure!(packet.icmp() == Some((3, code)), "{packet}");
    ensure!(packet.source() == Some(from.parse::<IpAddr>()?), "{packet}");
    ensure!(packet.length == 70 && packet.segmentation.is_none(), "{packet}");
    ensure!(packet.checksum == Checksum::Complete, "{packet}");
    packet.verify_checksums().map_err(anyhow::Error::msg)
}

fn connect(from: &Node, to: &str) -> Result<ErrorKind> {
    let to: SocketAddr = to.parse()?;
    match from.enter(|| TcpStream::connect_timeout(&to, DEADLINE))? {
        Ok(_) => anyhow::bail!("{} is connected to {to}", from.name()),
        Err(error) => Ok(error.kind()),
    }
}

/// Sends a datagram, or as many as the kernel makes of `bytes` with segments of `segment` bytes.
fn send(from: &Node, to: &str, bytes: usize, segment: Option<u16>) -> Result<ErrorKind> {
    const UDP_SEGMENT: libc::c_int = 103;
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    if let Some(segment) = segment {
        let size = libc::c_int::from(segment);
        // SAFETY: the kernel reads an `int` that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_UDP,
                UDP_SEGMENT,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as u32,
            )
        };
        ensure!(result == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
    }
    socket.connect(to)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.send(&vec![7; bytes])?;
    match socket.recv(&mut [0; 16]) {
        Ok(_) => anyhow::bail!("{} got an answer from {to}", from.name()),
        Err(error) => Ok(error.kind()),
    }
}

#[test]
fn tcp_to_another_network_is_refused_at_once() -> Result<()> {
    let work = |guest: &Node| connect(guest, FORBIDDEN);
    on_each_guest(3, |_| Ok(()), work, ErrorKind::ConnectionRefused)
}

#[test]
fn udp_to_another_network_is_refused_at_once() -> Result<()> {
    let work = |guest: &Node| send(guest, FORBIDDEN, 100, None);
    on_each_guest(3, |_| Ok(()), work, ErrorKind::ConnectionRefused)
}

#[test]
fn segmented_udp_to_another_network_is_refused_at_once() -> Result<()> {
    let work = |guest: &Node| send(guest, FORBIDDEN, 20_000, Some(1000));
    on_each_guest(3, |_| Ok(()), work, ErrorKind::ConnectionRefused)
}

#[test]
fn guest_that_has_all_its_flows_learns_it_at_once() -> Result<()> {
    let change = |rig: &mut Rig| rig.set_network(NETWORK, |network| network.flows_per_guest = 0);
    let work = |guest: &Node| connect(guest, "203.0.113.1:80");
    on_each_guest(13, change, work, ErrorKind::HostUnreachable)
}

#[test]
fn bulk_of_a_connection_that_is_allowed_no_more_is_answered_with_sound_errors() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (lab, mut rig) = rejecting_lab()?;
    let echo = TcpEcho::start(&lab.outside, "203.0.113.1:7".parse()?)?;
    for guest in [&lab.tap_guest, &lab.veth_guest] {
        let connected = guest.enter(|| TcpStream::connect_timeout(&echo.address(), DEADLINE))?;
        let mut stream = connected.context("through our own masquerade")?;
        stream.write_all(b"hello")?;
        stream.read_exact(&mut [0; 5])?;

        let capture = guest.capture_headers("eth0", "icmp or tcp")?;
        rig.set_network(NETWORK, |network| network.mode = Mode::Isolated as u8)?;
        rig.bump_epoch()?;
        stream.write_all(&vec![7; 30_000])?;
        let seen = capture.wait_for(|packet| packet.icmp().is_some(), DEADLINE)?;
        check_error(&seen, GATEWAY, 3)?;
        let sent = capture.finish()?;
        assert!(sent.iter().any(|packet| packet.segmentation.is_some()), "no bulk was sent");

        rig.set_network(NETWORK, |network| network.mode = Mode::Nat as u8)?;
        rig.bump_epoch()?;
    }
    Ok(())
}

#[test]
fn outside_host_that_addresses_a_guest_is_refused_by_the_uplinks_address() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (lab, _rig) = rejecting_lab()?;
    lab.outside.route("192.168.122.0/24", "203.0.113.2")?;
    let capture = lab.outside.capture("eth0", "icmp")?;
    assert_eq!(connect(&lab.outside, "192.168.122.12:80")?, ErrorKind::ConnectionRefused);
    assert_eq!(send(&lab.outside, "192.168.122.12:53", 9, None)?, ErrorKind::ConnectionRefused);
    let errors = capture.finish()?;
    assert_eq!(errors.len(), 2, "{}", listing(&errors));
    for error in errors {
        check_error(&error, "203.0.113.2", 3)?;
    }
    Ok(())
}
