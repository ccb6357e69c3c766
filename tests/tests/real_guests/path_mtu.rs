//! Path MTU discovery (RFC 1191) of a guest's kernel, with segmentation left to the host.

use anyhow::{Result, ensure};
use vnet_tests::lab::services::Upload;
use vnet_tests::lab::{CapturedPacket, RealGuest, Segmentation, listing, require_real_guests};

use crate::site::{
    DEADLINE, NARROW_MTU, NARROW_SERVER, SERVER, Site, assert_reaches, upload, uploaded,
};

const LENGTH: usize = 8 << 20;
/// IPv4 header, TCP header, timestamps.
const TCP_HEADERS: u16 = 20 + 20 + 12;
/// "Fragmentation needed and DF set" (RFC 792).
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);

#[test]
fn real_guest_learns_the_mtu_of_the_path_behind_the_nat() -> Result<()> {
    if !require_real_guests() {
        return Ok(());
    }
    let site = Site::new()?;
    let [(mut guest, address)] = site.guests(["guest1"])?;
    assert_reaches(&mut guest, NARROW_SERVER)?;
    let sha256 = site.sha256(LENGTH)?;
    let download =
        format!("wget -q -O file http://{NARROW_SERVER}/bytes/{LENGTH} && sha256sum file");
    ensure!(guest.run(&download, DEADLINE)?.starts_with(&sha256));

    let port = site.host.capture_headers(guest.port(), &format!("ip and host {address}"))?;
    let said = guest.run(&upload("file", LENGTH, NARROW_SERVER), DEADLINE)?;
    ensure!(Upload::parse(&said) == Some(uploaded(LENGTH)), "{said}");
    let packets = port.finish()?;
    let told = packets.iter().filter(|packet| packet.icmp() == Some(FRAGMENTATION_NEEDED));
    ensure!(told.clone().count() > 0, "{}", listing(&packets));
    for packet in told {
        // The router's, with the next hop's MTU behind the ICMP checksum and 16 unused bits.
        let mtu = packet.data.get(14 + 20 + 6..14 + 20 + 8);
        ensure!(packet.outgoing && mtu == Some(&NARROW_MTU.to_be_bytes()), "{packet}");
        ensure!(packet.destination() == Some(address.into()), "{packet}");
    }
    let sizes: Vec<_> = packets.iter().filter_map(sent_segments).collect();
    ensure!(sizes.first() == Some(&(1500 - TCP_HEADERS)), "{sizes:?}");
    ensure!(sizes.last() == Some(&(NARROW_MTU - TCP_HEADERS)), "{sizes:?}");

    // What the guest's kernel has learnt is of that destination, and serves every protocol: 1372
    // bytes behind an ICMP header are 1400 as one packet, or 1280 and 100 behind an IPv4 header each.
    ensure!(large_ping(&site, &mut guest, NARROW_SERVER)? == [1300, 120]);
    ensure!(large_ping(&site, &mut guest, SERVER)? == [1400]);
    site.finish()
}

/// The size of the segments that a packet of the guest's stands for.
fn sent_segments(packet: &CapturedPacket) -> Option<u16> {
    let Segmentation { size, .. } = packet.segmentation?;
    (!packet.outgoing).then_some(size)
}

/// Bytes of the IP packets that an echo request leaves the guest in; it is answered.
fn large_ping(site: &Site, guest: &mut RealGuest, to: &str) -> Result<Vec<usize>> {
    let port = site.host.capture(guest.port(), &format!("icmp and dst {to}"))?;
    guest.run(&format!("ping -c 1 -W 5 -s 1372 {to}"), DEADLINE)?;
    Ok(port.finish()?.iter().map(CapturedPacket::largest_ip_packet).collect())
}
