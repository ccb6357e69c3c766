//! What guests send and receive with every offload on.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use vnet_tests::lab::services::Upload;
use vnet_tests::lab::{
    CapturedPacket, Checksum, RealGuest, SegmentKind, Segmentation, listing, require_real_guests,
};

use crate::site::{DEADLINE, GATEWAY, SERVER, Site, assert_reaches, upload, uploaded};

const LENGTH: usize = 32 << 20;
/// Payload of a TCP segment with timestamps on an Ethernet.
const SEGMENT: u16 = 1448;
/// More than any frame on a wire here has.
const LARGEST_FRAME: u64 = 1514;
/// Bits of `VIRTIO_NET_F_…` (Virtual I/O Device 1.2, section 5.1.3): checksums and TCP segments left
/// to the host, and taken from it.
const OFFLOADS: [(usize, &str); 6] = [
    (0, "CSUM"),
    (1, "GUEST_CSUM"),
    (7, "GUEST_TSO4"),
    (8, "GUEST_TSO6"),
    (11, "HOST_TSO4"),
    (12, "HOST_TSO6"),
];

#[test]
fn real_guests_reach_outside_and_each_other_with_every_offload() -> Result<()> {
    if !require_real_guests() {
        return Ok(());
    }
    let site = Site::new()?;
    let [(mut guest, address), (mut other, other_address)] = site.guests(["guest1", "guest2"])?;
    ensure!(address != other_address);
    assert_offloads_negotiated(&mut guest)?;
    for to in [GATEWAY, SERVER] {
        assert_reaches(&mut guest, to)?;
        assert_reaches(&mut other, to)?;
    }

    let port = site.host.capture_headers(guest.port(), &format!("tcp and host {address}"))?;
    let sha256 = site.sha256(LENGTH)?;
    let download = format!("wget -q -O file http://{SERVER}/bytes/{LENGTH} && sha256sum file");
    ensure!(guest.run(&download, DEADLINE)?.starts_with(&sha256));
    let said = guest.run(&upload("file", LENGTH, SERVER), DEADLINE)?;
    ensure!(Upload::parse(&said) == Some(uploaded(LENGTH)), "{said}");
    assert_both_at_once(&mut guest, &sha256)?;
    assert_segments_crossed(&port.finish()?, address)?;
    assert_counted_as_segments(&site)?;

    assert_reaches(&mut guest, &other_address.to_string())?;
    guest.run("httpd -h /tmp", DEADLINE)?;
    let port = site.host.capture_headers(guest.port(), &format!("tcp and host {address}"))?;
    let download = format!("wget -q -O - http://{address}/file | sha256sum");
    ensure!(other.run(&download, DEADLINE)?.starts_with(&sha256));
    let packets = port.finish()?;
    ensure!(packets.iter().any(|packet| is_segments(packet, false)), "{}", listing(&packets));
    site.finish()
}

/// What the guest's driver and QEMU have agreed on.
fn assert_offloads_negotiated(guest: &mut RealGuest) -> Result<()> {
    let features = guest.run("cat /sys/class/net/eth0/device/features", DEADLINE)?;
    for (bit, name) in OFFLOADS {
        ensure!(features.as_bytes().get(bit) == Some(&b'1'), "{name} is off: {features}");
    }
    Ok(())
}

/// Sends the file and receives one like it.
fn assert_both_at_once(guest: &mut RealGuest, sha256: &str) -> Result<()> {
    let line = format!(
        "{} 2> sent & wget -q -O - http://{SERVER}/bytes/{LENGTH} | sha256sum; wait; cat sent",
        upload("file", LENGTH, SERVER)
    );
    let said = guest.run(&line, DEADLINE)?;
    let (received, sent) = said.split_once('\n').with_context(|| said.clone())?;
    ensure!(received.starts_with(sha256), "{said}");
    ensure!(Upload::parse(sent) == Some(uploaded(LENGTH)), "{said}");
    Ok(())
}

/// Whether it stands for several segments of an Ethernet, with a checksum that nobody has computed.
fn is_segments(packet: &CapturedPacket, to_guest: bool) -> bool {
    packet.outgoing == to_guest
        && packet.checksum == Checksum::Partial
        && packet.segmentation == Some(Segmentation { kind: SegmentKind::Tcp4, size: SEGMENT })
}

/// In both directions, and every frame of the guest's with data or without has a partial checksum.
fn assert_segments_crossed(packets: &[CapturedPacket], guest: Ipv4Addr) -> Result<()> {
    for to_guest in [false, true] {
        ensure!(packets.iter().any(|packet| is_segments(packet, to_guest)), "to it: {to_guest}");
    }
    let sent = packets.iter().filter(|packet| packet.source() == Some(IpAddr::V4(guest)));
    let complete = sent.filter(|packet| packet.checksum != Checksum::Partial);
    let complete: Vec<_> = complete.cloned().collect();
    ensure!(complete.is_empty(), "{}", listing(&complete));
    for packet in packets {
        packet.verify_checksums().map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// vnet counts what it sees: packets that are larger than any on a wire.
fn assert_counted_as_segments(site: &Site) -> Result<()> {
    let flows = site.vnet.flows()?;
    let bulk = |traffic: &vnet_common::flow::Traffic| traffic.bytes > LENGTH as u64;
    let sent: Vec<_> = flows.iter().map(|flow| flow.outbound).filter(bulk).collect();
    let received: Vec<_> = flows.iter().map(|flow| flow.inbound).filter(bulk).collect();
    // One after the other, then both at once.
    ensure!([sent.len(), received.len()] == [2, 2], "{flows:?}");
    for traffic in sent.iter().chain(&received) {
        ensure!(traffic.bytes / traffic.packets > LARGEST_FRAME, "{flows:?}");
    }
    Ok(())
}
