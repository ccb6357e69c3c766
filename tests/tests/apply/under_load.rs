//! Many changes while packets cross the host.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{
        SteadyTcp, SteadyUdp, require_root,
        services::{TcpEcho, UdpEcho},
    },
    lifecycle::Scene,
};

use crate::support::*;

const CHANGES: usize = 1000;
const CONNECTIONS: usize = 100;

/// Two definitions that both let the guests of `default` out; the other network is masqueraded in the one
/// and isolated in the other, so that neither lets it reach the guests of `default`.
#[test]
fn a_thousand_changes_lose_no_packet_and_let_none_through() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| Ok(lab.host.bridge("virbr1", &["192.168.123.1/24"])?))?;
    let (host, outside) = (&scene.lab.host, &scene.lab.outside);
    let other =
        |forward| named("other", forward, "virbr1", "<ip address='192.168.123.1' prefix='24'/>");
    let limits = "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>\
                  <vnet:limits flows='100'/></vnet:options></metadata>";
    let one =
        [scene.write("one.xml", &network(NAT, ""))?, scene.write("one-other.xml", &other(NAT))?];
    let two =
        [scene.write("two.xml", &network(NAT, limits))?, scene.write("two-other.xml", &other(""))?];
    let running = scene.ready(&[])?;
    let udp_echo = UdpEcho::start(outside, format!("{OUTSIDE}:7").parse()?)?;
    let tcp_echo = TcpEcho::start(outside, format!("{OUTSIDE}:7").parse()?)?;
    let tcp = SteadyTcp::open(&scene.lab.veth_guest, tcp_echo.address(), CONNECTIONS)?;
    let from = "192.168.122.11:4000".parse()?;
    let udp = SteadyUdp::start(&scene.lab.tap_guest, from, udp_echo.address())?;
    // From outside to a guest's own address: no definition lets that in.
    outside.run(&["ip", "route", "add", "192.168.122.0/24", "via", "203.0.113.2"])?;
    let forbidden = scene.lab.tap_guest.capture("eth0", "udp dst port 9")?;
    let from = "203.0.113.1:0".parse()?;
    let to = "192.168.122.11:9".parse()?;
    let stranger = outside.udp_socket(from, to, std::time::Duration::from_millis(1))?;

    for change in 0..CHANGES {
        let [network, other] = if change % 2 == 0 { &two } else { &one };
        let output = apply(&scene, &[network, other])?;
        ensure!(output.status.code() == Some(0), "{change}: {output:?}");
        ensure!(output.stdout.contains("~ default") || change == 0, "{change}: {output:?}");
        // Refused by an ICMP error now and then.
        let _ = stranger.send(b"forbidden");
    }

    let report = udp.finish();
    let (rounds, broken) = tcp.finish();
    ensure!(report.answered == report.sent && report.sent as usize > 10 * CHANGES, "{report:?}");
    ensure!((report.lost, report.refused) == (0, 0), "{report:?}");
    ensure!(rounds > 0 && broken.is_empty(), "{rounds} rounds, {broken:?}");
    let let_through = forbidden.finish()?;
    ensure!(let_through.is_empty(), "{}", vnet_tests::lab::listing(&let_through));
    println!(
        "{CHANGES} changes, {} datagrams, {rounds} rounds of {CONNECTIONS} connections",
        report.sent
    );
    outside.run(&["ip", "route", "del", "192.168.122.0/24"])?;
    ensure!(host.sysctl_value("net.ipv4.ip_forward")? == "1");
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}
