//! IPv6 extension headers carry nothing past the policy.

use vnet_tests::lab::require_root;
use vnet_tests::modes::{Arrivals, Net, Place, Rig, frame, nine_networks};
use vnet_tests::vnet::Vnet;

use crate::support::ip;

const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// A header of options that are all padding (RFC 8200, section 4.2), 8 bytes times `units`.
fn options(next: u8, units: u8) -> Vec<u8> {
    let length = usize::from(units) * 8;
    let mut header = vec![next, units - 1, 1, (length - 4) as u8];
    header.resize(length, 0);
    header
}

/// The headers, each with its number.
fn chain(headers: &[(u8, u8)]) -> Headers {
    let mut bytes = Vec::new();
    let next = headers.iter().skip(1).map(|(number, _)| *number).chain([UDP]);
    for ((number, units), next) in headers.iter().zip(next) {
        match *number {
            // No segments left (RFC 8200, section 4.4), of the experimental type 253.
            ROUTING => bytes.extend([next, 0, 253, 0, 0, 0, 0, 0]),
            // The only fragment of its datagram (RFC 6946).
            FRAGMENT => bytes.extend([next, 0, 0, 0, 0, 0, 0, 77]),
            _ => bytes.extend(options(next, *units)),
        }
    }
    (headers[0].0, bytes)
}

/// The number of the first header, and all of them.
type Headers = (u8, Vec<u8>);

/// What may stand before a datagram, and whether it must arrive where the policy allows it.
fn chains() -> Vec<(&'static str, Headers, bool)> {
    vec![
        ("destination options", chain(&[(DESTINATION, 1)]), true),
        ("long destination options", chain(&[(DESTINATION, 8)]), true),
        ("hop-by-hop options", chain(&[(HOP_BY_HOP, 1)]), true),
        ("routing", chain(&[(ROUTING, 1)]), true),
        ("fragment", chain(&[(FRAGMENT, 1)]), true),
        (
            "one of each",
            chain(&[
                (HOP_BY_HOP, 1),
                (DESTINATION, 1),
                (ROUTING, 1),
                (FRAGMENT, 1),
                (DESTINATION, 1),
            ]),
            false,
        ),
        ("many", chain(&[(DESTINATION, 1); 12]), false),
        ("very many", chain(&[(DESTINATION, 2); 40]), false),
        ("very long", chain(&[(DESTINATION, 32), (DESTINATION, 32)]), false),
        ("an unknown one", (253, options(UDP, 1)), false),
    ]
}

struct Sent {
    text: String,
    what: String,
    to: String,
    source: Option<&'static str>,
    required: bool,
}

#[test]
fn extension_headers_do_not_bypass_the_policy() -> anyhow::Result<()> {
    /// From, to, destination, source that is seen if it may pass.
    const WAYS: [(&str, &str, &str, Option<&str>); 12] = [
        ("X", "isolated-a.1", "2001:db8:10:7::11", None),
        ("X", "nat-a.1", "2001:db8:10:1::11", None),
        ("Y", "route-x.1", "2001:db8:10:6::11", None),
        ("nat-a.1", "nat-b.1", "2001:db8:10:2::11", None),
        ("isolated-a.1", "X", "2001:db8:a::1", None),
        ("isolated-a.1", "route-a.1", "2001:db8:10:4::11", None),
        ("route-x.1", "Y", "2001:db8:b::1", None),
        ("nat-a.1", "X", "2001:db8:a::1", Some("2001:db8:a::2")),
        ("nat-a.1", "route-a.1", "2001:db8:10:4::11", Some("2001:db8:10:4::1")),
        ("route-a.1", "X", "2001:db8:a::1", Some("2001:db8:10:4::11")),
        ("X", "route-a.1", "2001:db8:10:4::11", Some("2001:db8:a::1")),
        ("route-a.1", "route-b.1", "2001:db8:10:5::11", Some("2001:db8:10:4::11")),
    ];
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    // Whether the hosts outside know their neighbours must not matter here.
    for (from, to, destination, source) in WAYS {
        if source.is_some() {
            crate::support::probe(rig.place(from), rig.place(to), destination)?;
        }
    }
    let arrivals = Arrivals::start(&rig.places)?;
    let mut sent = Vec::new();
    for (from, to, destination, source) in WAYS {
        let from: &Place = rig.place(from);
        for (what, (first, headers), required) in chains() {
            let text = format!("headers {:05}.", sent.len());
            let addresses = (from.address_like(ip(destination)), ip(destination));
            let macs = rig.macs_to_host(from)?;
            let ports = (5000 + sent.len() as u16, 4000);
            let frame =
                frame::udp_behind(macs, addresses, ports, (first, &headers), text.as_bytes());
            frame::send(&from.node, "eth0", &frame)?;
            let what = format!("{what}: {} to {to}", from.name);
            sent.push(Sent { text, what, to: to.to_owned(), source, required });
        }
    }
    for sent in sent.iter().filter(|sent| sent.required && sent.source.is_some()) {
        if let Err(error) = arrivals.wait_for_text(&sent.to, sent.text.as_bytes()) {
            panic!("{}: {error}", sent.what);
        }
    }
    let arrived = arrivals.finish()?;
    for sent in &sent {
        for place in rig.places.iter().filter(|place| place.name != "host") {
            for packet in arrived.with_text(&place.name, sent.text.as_bytes()) {
                // An ICMP error quotes it to its own sender.
                let is_error = packet.icmp().is_some();
                let expected = sent.source.map(ip);
                assert!(
                    is_error || (place.name == sent.to && packet.source() == expected),
                    "{}: at {}: {packet}",
                    sent.what,
                    place.name
                );
                if !is_error {
                    packet
                        .verify_checksums()
                        .unwrap_or_else(|wrong| panic!("{}: {wrong}", sent.what));
                }
            }
        }
    }
    vnet.stop()?;
    Ok(())
}
