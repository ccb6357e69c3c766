//! The servers and clients of the lab do what they say.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use vnet_tests::lab::services::{
    Dependence, Dnsmasq, DnsmasqConfig, HttpServer, RawEcho, SctpServer, StunServer, TcpEcho,
};
use vnet_tests::lab::{
    End, Error, Guest, Lab, Node, StandardLab, killed_by, require_root, write_pcap,
};

const DEADLINE: Duration = Duration::from_secs(10);

#[test]
fn guest_gets_address_and_names_from_dnsmasq() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("host")?;
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    let dnsmasq = Dnsmasq::start(
        &host,
        &DnsmasqConfig {
            interface: "virbr0",
            dhcp_range: Some(("192.168.122.100", "192.168.122.199")),
            names: &[("web.example", "203.0.113.1")],
            ..DnsmasqConfig::default()
        },
    )?;
    let router = Ipv4Addr::new(192, 168, 122, 1);
    for guest in [Guest::tap("guest1"), Guest::veth("guest2")] {
        let guest = lab.guest(&host, "virbr0", &guest)?;
        let lease = guest.dhcp("eth0", DEADLINE)?;
        assert!((100..=199).contains(&lease.address.octets()[3]), "{lease:?}");
        assert_eq!((lease.prefix_length, lease.server), (24, router));
        assert_eq!((lease.router, lease.name_server), (Some(router), Some(router)));

        guest.add_address("eth0", &format!("{}/24", lease.address))?;
        let server = SocketAddr::new(router.into(), 53);
        let found = guest.resolve(server, "web.example", DEADLINE)?;
        assert_eq!(found, [Ipv4Addr::new(203, 0, 113, 1)]);
    }
    assert!(dnsmasq.log().contains("DHCPACK(virbr0)"), "{}", dnsmasq.log());
    Ok(())
}

#[test]
fn web_server_refuses_what_it_does_not_have() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let web = HttpServer::start(&lab.host, "192.168.122.1:80".parse()?)?;
    assert_eq!(lab.tap_guest.curl("http://192.168.122.1/bytes/0")?, b"");
    match lab.tap_guest.curl("http://192.168.122.1/other") {
        Err(Error::Command { command, namespace, status, stderr, .. }) => {
            assert_eq!((namespace.as_str(), status.code()), ("guest1", Some(22)));
            assert!(command.ends_with("http://192.168.122.1/other"), "{command}");
            assert!(stderr.contains("404"), "{stderr}");
        }
        other => panic!("{other:?}"),
    }
    let peers: Vec<_> = web.peers().iter().map(|peer| peer.ip().to_string()).collect();
    assert_eq!(peers, ["192.168.122.11", "192.168.122.11"]);
    Ok(())
}

#[test]
fn dropping_a_server_ends_its_connections_and_frees_its_port() -> anyhow::Result<()> {
    use std::io::{Read, Write};
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let echo = TcpEcho::start(&lab.host, "192.168.122.1:7".parse()?)?;
    let mut stream = lab.veth_guest.tcp_connect(echo.address(), DEADLINE)?;
    let mut answer = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    drop(echo);
    assert_eq!(stream.read(&mut answer)?, 0);
    TcpEcho::start(&lab.host, "192.168.122.1:7".parse()?)?;
    Ok(())
}

#[test]
fn running_program_is_awaited_by_what_it_prints_and_ended_by_signal() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("host")?;
    let mut running = host.spawn(&["sh", "-c", "echo begun; pwd; exec sleep 1000"])?;
    assert_eq!(running.wait_for_line("begun", DEADLINE)?, "begun");
    let here = std::env::current_dir()?;
    running.wait_for_line(&here.display().to_string(), DEADLINE)?;
    let missing = running.wait_for_line("never", Duration::from_millis(20));
    assert!(matches!(missing, Err(Error::Deadline { .. })), "{missing:?}");
    let output = running.terminate(DEADLINE)?;
    assert!(killed_by(output.status, Signal::SIGTERM), "{output:?}");
    assert_eq!(output.stdout, format!("begun\n{}\n", here.display()));
    Ok(())
}

#[test]
fn tcpdump_reads_the_pcap_file_of_a_capture() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let capture = lab.host.capture("virbr0", "icmp")?;
    lab.tap_guest.ping("192.168.122.1", 1)?;
    capture.wait_for(|packet| packet.icmp() == Some((0, 0)), DEADLINE)?;
    let packets = capture.finish()?;
    let path = std::env::temp_dir().join(format!("vnet-lab-{}.pcap", std::process::id()));
    let written = write_pcap(&path, &packets);
    let text = lab.host.run(&["tcpdump", "-nn", "-t", "-r", &path.display().to_string()]);
    std::fs::remove_file(&path)?;
    written?;
    let text = text?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("IP 192.168.122.11 > 192.168.122.1: ICMP echo request"), "{text}");
    assert!(lines[1].starts_with("IP 192.168.122.1 > 192.168.122.11: ICMP echo reply"), "{text}");
    Ok(())
}

/// Two stations on one wire, with the addresses of the second.
fn pair(lab: &Lab) -> anyhow::Result<(Node, Node, [IpAddr; 2])> {
    let [one, other] = [lab.station("one")?, lab.station("other")?];
    lab.wire(
        &End::new(&one, "eth0").address("192.0.2.1/24").address("2001:db8::1/64"),
        &End::new(&other, "eth0").address("192.0.2.2/24").address("2001:db8::2/64"),
    )?;
    Ok((one, other, ["192.0.2.2".parse()?, "2001:db8::2".parse()?]))
}

#[test]
fn raw_packets_are_echoed_in_both_families() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (one, other, addresses) = pair(&lab)?;
    for address in addresses {
        let server = RawEcho::start(&other, address, 253)?;
        assert_eq!(one.raw_ask(address, 253, b"question", DEADLINE)?, b"question");
        assert_eq!(server.peers().len(), 1);
    }
    Ok(())
}

#[test]
fn sctp_messages_are_echoed_in_both_families() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (one, other, addresses) = pair(&lab)?;
    if one.kernel_has_sctp() {
        println!("skipped: the kernel's own SCTP would abort what it knows nothing of");
        return Ok(());
    }
    for address in addresses {
        let server = SctpServer::start(&other, address, 9899)?;
        let mut association = one.sctp_associate(5000, (address, 9899), DEADLINE)?;
        assert_eq!(association.ask(b"odd")?, b"odd");
        assert_eq!(association.ask(b"once more")?, b"once more");
        association.shutdown()?;
        assert_eq!(server.peers().len(), 1);
    }
    Ok(())
}

#[test]
fn stun_finds_no_nat_where_there_is_none() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (one, other, addresses) = pair(&lab)?;
    other.add_address("eth0", "192.0.2.3/24")?;
    other.add_address("eth0", "2001:db8::3/64")?;
    for (own, first, second) in
        [("192.0.2.1", addresses[0], "192.0.2.3"), ("2001:db8::1", addresses[1], "2001:db8::3")]
    {
        let server = StunServer::start(&other, [first, second.parse()?], [3478, 3479])?;
        let found = one.discover_nat(server.primary(), DEADLINE)?;
        assert_eq!(found.mapped.ip(), own.parse::<IpAddr>()?);
        assert_eq!(found.mapping, Dependence::EndpointIndependent);
        assert_eq!(found.filtering, Dependence::EndpointIndependent);
    }
    Ok(())
}
