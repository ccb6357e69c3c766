//! The judge of checksums and sizes is right itself. Needs no rights.

use std::time::Duration;

use etherparse::PacketBuilder;
use vnet_tests::lab::{CapturedPacket, Checksum, SegmentKind, Segmentation};

/// Offset of the TCP checksum behind Ethernet and IPv4 without options.
const TCP_CHECKSUM: usize = 14 + 20 + 16;

fn tcp_packet(payload: &[u8]) -> anyhow::Result<CapturedPacket> {
    let mut data = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 168, 122, 11], [203, 0, 113, 1], 64)
        .tcp(40000, 80, 1, 1000)
        .write(&mut data, payload)?;
    let length = data.len();
    Ok(CapturedPacket {
        time: Duration::ZERO,
        data,
        length,
        outgoing: false,
        checksum: Checksum::Complete,
        segmentation: None,
        vlan: None,
    })
}

#[test]
fn right_checksums_are_accepted_and_wrong_ones_named() -> anyhow::Result<()> {
    let mut packet = tcp_packet(b"hello")?;
    assert_eq!(packet.verify_checksums(), Ok(()));
    packet.data[TCP_CHECKSUM] ^= 1;
    let wrong = packet.verify_checksums().unwrap_err();
    assert!(wrong.starts_with("L4 checksum is 0x"), "{wrong}");
    packet.data[TCP_CHECKSUM] ^= 1;
    // The TTL is covered by the IPv4 header's checksum only.
    packet.data[14 + 8] -= 1;
    let wrong = packet.verify_checksums().unwrap_err();
    assert!(wrong.starts_with("IPv4 header checksum is 0x"), "{wrong}");
    Ok(())
}

#[test]
fn either_zero_is_a_right_checksum_of_a_tcp_segment() -> anyhow::Result<()> {
    let packet = tcp_packet(&[0, 0])?;
    let sum = [packet.data[TCP_CHECKSUM], packet.data[TCP_CHECKSUM + 1]];
    // With its own complement in the payload the sum becomes zero.
    let mut packet = tcp_packet(&sum)?;
    assert_eq!(packet.data[TCP_CHECKSUM..TCP_CHECKSUM + 2], [0, 0]);
    assert_eq!(packet.verify_checksums(), Ok(()));
    packet.data[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0xff);
    assert_eq!(packet.verify_checksums(), Ok(()));
    Ok(())
}

#[test]
fn partial_checksum_has_to_be_the_sum_of_the_pseudo_header() -> anyhow::Result<()> {
    let mut packet = tcp_packet(b"hello")?;
    packet.checksum = Checksum::Partial;
    assert!(packet.verify_checksums().is_err());
    // c0a8 + 7a0b + cb00 + 7101 + 6 (TCP) + 25 (length) = 276d3, folded 76d5.
    packet.data[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&[0x76, 0xd5]);
    assert_eq!(packet.verify_checksums(), Ok(()));
    // Neither the ports nor the payload are part of it, so only headers are enough.
    packet.data.truncate(14 + 20 + 20);
    assert_eq!(packet.verify_checksums(), Ok(()));
    packet.data[TCP_CHECKSUM + 1] += 1;
    let wrong = packet.verify_checksums().unwrap_err();
    let text = "partial L4 checksum is 0x76d6, 0x76d5 would be right: ";
    assert!(wrong.starts_with(text), "{wrong}");
    Ok(())
}

#[test]
fn segmented_packet_is_measured_by_its_segments() -> anyhow::Result<()> {
    let mut packet = tcp_packet(&[0; 14_480])?;
    assert_eq!(packet.largest_ip_packet(), 14_520);
    packet.segmentation = Some(Segmentation { kind: SegmentKind::Tcp4, size: 1460 });
    assert_eq!(packet.largest_ip_packet(), 1500);
    assert_eq!(packet.source(), "192.168.122.11".parse().ok());
    assert_eq!(packet.ports(), Some((40000, 80)));
    Ok(())
}
