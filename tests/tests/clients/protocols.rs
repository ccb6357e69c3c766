//! Protocols other than TCP, UDP and ICMP: one guest for each remote, by its address.

use vnet_tests::lab::services::{RawEcho, SctpServer, content};
use vnet_tests::lab::{Node, require_esp, require_gre, require_sctp};

use crate::internet::*;

const SCTP_PORT: u16 = 36412;

#[test]
fn sctp_association_over_raw_sockets_begins_carries_messages_and_ends() -> anyhow::Result<()> {
    on_each_port(|net| {
        if net.server.kernel_has_sctp() {
            // It would abort what it knows nothing of.
            println!("left to the kernel's SCTP: sctp_association_of_the_kernel_carries_messages");
            return Ok(());
        }
        for family in FAMILIES {
            let server = SctpServer::start(&net.server, ip(family.server), SCTP_PORT)?;
            let to = (ip(family.server), SCTP_PORT);
            let mut association = net.guest.sctp_associate(5000, to, DEADLINE)?;
            for length in [1, 100, 1200] {
                assert_eq!(association.ask(&content(length))?, content(length));
            }
            association.shutdown()?;
            assert_eq!(server.peers(), [ip(family.uplink)]);
        }
        Ok(())
    })
}

#[test]
fn sctp_association_of_the_kernel_carries_messages() -> anyhow::Result<()> {
    if !require_sctp() {
        return Ok(());
    }
    on_each_port(|net| {
        for family in FAMILIES {
            let server = net.server.kernel_sctp_listen(at(family.server, SCTP_PORT), DEADLINE)?;
            std::thread::scope(|scope| -> anyhow::Result<()> {
                let echo = scope.spawn(|| server.echo_one_message());
                let to = at(family.server, SCTP_PORT);
                let answer = net.guest.kernel_sctp_ask(to, &content(1200), DEADLINE)?;
                assert!(answer == content(1200));
                assert_eq!(echo.join().unwrap()?.ip(), ip(family.uplink));
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// One packet there and back for each payload length.
fn assert_echoed(protocol: u8, lengths: &[usize]) -> anyhow::Result<()> {
    on_each_port(|net| {
        for family in FAMILIES {
            let server = RawEcho::start(&net.server, ip(family.server), protocol)?;
            for &length in lengths {
                let payload = content(length);
                let answer = net.guest.raw_ask(ip(family.server), protocol, &payload, DEADLINE)?;
                assert!(answer == payload, "{} {length} bytes", family.switch);
            }
            assert_eq!(server.peers(), vec![ip(family.uplink); lengths.len()]);
        }
        Ok(())
    })
}

#[test]
fn raw_gre_packets_come_and_go() -> anyhow::Result<()> {
    assert_echoed(47, &[4, 1480])
}

#[test]
fn raw_esp_packets_come_and_go() -> anyhow::Result<()> {
    assert_echoed(50, &[8, 1400])
}

#[test]
fn packets_of_a_protocol_that_nobody_knows_come_and_go() -> anyhow::Result<()> {
    // RFC 3692: 253 is for experiments. The last one travels in fragments.
    assert_echoed(253, &[0, 1, 1400, 4000])
}

/// A tunnel between the guest and the server, which takes the guest for the uplink.
struct Tunnel {
    guest: &'static str,
    server: &'static str,
}

const INSIDE: [Tunnel; 2] = [
    Tunnel { guest: "10.77.0.1", server: "10.77.0.2" },
    Tunnel { guest: "fd00:77::1", server: "fd00:77::2" },
];

fn ip_command(node: &Node, line: &str) -> anyhow::Result<()> {
    Ok(node.ip_batch(&[line.to_owned()])?)
}

#[test]
fn gre_tunnel_of_the_kernel_carries_pings() -> anyhow::Result<()> {
    if !require_gre() {
        return Ok(());
    }
    on_each_port(|net| {
        for (family, kind) in [(IPV4, "gre"), (IPV6, "ip6gre")] {
            let [tunnel, _] = INSIDE;
            for (node, local, remote, address) in [
                (&net.guest, family.guest, family.server, tunnel.guest),
                (&net.server, family.server, family.uplink, tunnel.server),
            ] {
                let ends = format!("local {local} remote {remote}");
                ip_command(node, &format!("link add tunnel type {kind} {ends}"))?;
                ip_command(node, &format!("address add {address}/30 dev tunnel"))?;
                ip_command(node, "link set tunnel up")?;
            }
            assert_eq!(net.guest.ping(tunnel.server, 3)?.received, 3, "{kind}");
            // Fragments of GRE packets.
            let large = net.guest.ping_with(tunnel.server, 3, &["-M", "dont", "-s", "3000"])?;
            assert_eq!(large.received, 3, "{kind}");
            for node in [&net.guest, &net.server] {
                ip_command(node, "link delete tunnel")?;
            }
        }
        Ok(())
    })
}

/// A security association in each direction, tunnel mode, NULL encryption (RFC 2410).
fn add_ipsec(node: &Node, own: [&str; 2], peer: [&str; 2], spis: [u32; 2]) -> anyhow::Result<()> {
    let ([own, own_inside], [peer, peer_inside], [out, into]) = (own, peer, spis);
    for (from, to, spi) in [(own, peer, out), (peer, own, into)] {
        let spi = spi.to_string();
        node.run(&[
            "ip",
            "xfrm",
            "state",
            "add",
            "src",
            from,
            "dst",
            to,
            "proto",
            "esp",
            "spi",
            &spi,
            "reqid",
            "1",
            "mode",
            "tunnel",
            "enc",
            "ecb(cipher_null)",
            "",
        ])?;
    }
    for (direction, [from, to], [outer_from, outer_to]) in [
        ("out", [own_inside, peer_inside], [own, peer]),
        ("in", [peer_inside, own_inside], [peer, own]),
    ] {
        let template =
            format!("tmpl src {outer_from} dst {outer_to} proto esp reqid 1 mode tunnel");
        let policy = format!("xfrm policy add src {from} dst {to} dir {direction} {template}");
        ip_command(node, &policy)?;
    }
    ip_command(node, &format!("address add {own_inside} dev lo"))
}

#[test]
fn ipsec_tunnel_of_the_kernel_carries_pings() -> anyhow::Result<()> {
    if !require_esp() {
        return Ok(());
    }
    on_each_port(|net| {
        for (family, inside) in FAMILIES.into_iter().zip(INSIDE) {
            for node in [&net.guest, &net.server] {
                node.sysctl("net.ipv6.conf.lo.disable_ipv6", "0")?;
            }
            add_ipsec(
                &net.guest,
                [family.guest, inside.guest],
                [family.server, inside.server],
                [0x1000, 0x2000],
            )?;
            add_ipsec(
                &net.server,
                [family.server, inside.server],
                [family.uplink, inside.guest],
                [0x2000, 0x1000],
            )?;
            let from = ["-I", inside.guest];
            assert_eq!(net.guest.ping_with(inside.server, 3, &from)?.received, 3, "{family:?}");
        }
        Ok(())
    })
}
