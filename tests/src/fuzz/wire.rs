//! Steps as bytes.

use std::net::{IpAddr, SocketAddr};

use vnet_common::flow::protocol;

use super::step::{Body, Damage, End, Spec};
use crate::model::Model;
use crate::programs::{self, Packet};

/// The frame of a packet; endpoints that the NAT gives are those of the model.
pub(super) fn frame(spec: &Spec, model: &Model, ifindex_of: &dyn Fn(&str) -> u32) -> Vec<u8> {
    let packet = packet(spec, model, ifindex_of);
    let mut frame = match spec.fragment {
        Some((size, place)) => {
            let mut fragments = packet.fragments(usize::from(size));
            match fragments.len().checked_sub(1) {
                Some(last) => fragments.swap_remove(usize::from(place).min(last)),
                None => packet.frame(),
            }
        }
        None => packet.frame(),
    };
    for damage in &spec.damage {
        match *damage {
            Damage::Cut(length) => frame.truncate(usize::from(length).max(14)),
            Damage::Pad(length) => frame.extend(std::iter::repeat_n(0xee, usize::from(length))),
            Damage::Byte(offset, value) => {
                if let Some(byte) = frame.get_mut(usize::from(offset)) {
                    *byte = value;
                }
            }
        }
    }
    // The kernel runs nothing shorter that calls itself IP (`net/bpf/test_run.c`).
    let shortest = match frame[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 15,
    };
    if frame.len() < shortest {
        frame.resize(shortest, 0);
    }
    frame
}

fn packet(spec: &Spec, model: &Model, ifindex_of: &dyn Fn(&str) -> u32) -> Packet {
    let resolve = |end: End| match end {
        End::Fixed(endpoint) => endpoint,
        End::External(inside, uplink) => {
            let number = number(&spec.body, inside.is_ipv6());
            let endpoint = (inside.ip(), inside.port());
            let (address, port) = model.external(number, endpoint, ifindex_of(uplink.name()));
            SocketAddr::new(address, port)
        }
    };
    let (from, to) = (resolve(spec.from), resolve(spec.to));
    let ipv6 = from.is_ipv6();
    let payload: Vec<u8> = (0..spec.payload).map(|byte| byte as u8).collect();
    let (body, payload) = match &spec.body {
        Body::Tcp(flags) => {
            let flags = *flags;
            (programs::Body::Tcp { source: from.port(), destination: to.port(), flags }, payload)
        }
        Body::Udp | Body::UdpBare => {
            let has_checksum = spec.body == Body::Udp;
            let (source, destination) = (from.port(), to.port());
            (programs::Body::Udp { source, destination, has_checksum }, payload)
        }
        Body::Request => (programs::Body::Echo { request: true, identifier: from.port() }, payload),
        Body::Reply => (programs::Body::Echo { request: false, identifier: to.port() }, payload),
        Body::Error(kind, code, about, length) => {
            let quoted = packet(about, model, ifindex_of);
            let mut quoted = match about.fragment {
                Some((size, _)) => {
                    let first = quoted.fragments(usize::from(size)).into_iter().next();
                    first.map_or_else(|| quoted.ip(), |frame| frame[14..].to_vec())
                }
                None => quoted.ip(),
            };
            quoted.truncate(usize::from(*length));
            (programs::Body::Icmp { kind: *kind, code: *code, rest: [0; 4] }, quoted)
        }
        Body::Icmp(kind, code) => {
            (programs::Body::Icmp { kind: *kind, code: *code, rest: [0; 4] }, payload)
        }
        Body::Ported(number) => {
            let (source, destination) = (from.port(), to.port());
            let body = match *number {
                protocol::SCTP => programs::Body::Sctp { source, destination },
                protocol::DCCP => programs::Body::Dccp { source, destination },
                _ => programs::Body::UdpLite { source, destination },
            };
            (body, payload)
        }
        Body::Raw(number) => (programs::Body::Raw { protocol: *number }, payload),
    };
    let destination = match (to.ip(), ipv6) {
        (address @ IpAddr::V6(_), true) | (address @ IpAddr::V4(_), false) => address,
        _ => from.ip(),
    };
    Packet {
        source: from.ip(),
        destination,
        ttl: spec.ttl,
        identification: spec.id,
        dscp: 0,
        flow_label: 0x1_2345,
        dont_fragment: false,
        options: if ipv6 { Vec::new() } else { unhex(&spec.options) },
        extensions: if ipv6 { extensions(&spec.extensions) } else { Vec::new() },
        body,
        payload,
    }
}

fn extensions(all: &[(u8, u8)]) -> Vec<programs::Extension> {
    let extension = |&(kind, units): &(u8, u8)| {
        // Padding (RFC 8200, section 4.2), or for a fragment header offset 0 and nothing that follows.
        let mut rest = vec![0; 7 + 8 * usize::from(units)];
        rest[0] = if kind == 44 { 0 } else { units };
        if kind != 44 {
            rest[1] = 1;
            rest[2] = 4;
        }
        programs::Extension { kind, rest }
    };
    all.iter().map(extension).collect()
}

/// The protocol in whose name an external endpoint is asked for.
fn number(body: &Body, ipv6: bool) -> u8 {
    match body {
        Body::Tcp(_) => protocol::TCP,
        Body::Udp | Body::UdpBare => protocol::UDP,
        Body::Request | Body::Reply | Body::Icmp(..) => {
            if ipv6 {
                protocol::ICMPV6
            } else {
                protocol::ICMP
            }
        }
        Body::Error(_, _, about, _) => number(&about.body, ipv6),
        Body::Ported(number) | Body::Raw(number) => *number,
    }
}

/// Bytes in hexadecimal.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect()
}
