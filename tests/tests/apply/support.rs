//! What these tests have in common.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{
        Output, Running, SteadyTcp, SteadyUdp, killed_by,
        services::{TcpEcho, UdpEcho},
    },
    lifecycle::{DEADLINE, Scene},
};

pub const OUTSIDE: &str = "203.0.113.1";
/// The hooks of the scene's network and uplink.
pub const HOOKS: [&str; 4] =
    ["egress of eth0", "ingress of eth0", "egress of virbr0", "ingress of virbr0"];

/// The scene's network with another mode and more elements.
pub fn network(forward: &str, rest: &str) -> String {
    named("default", forward, "virbr0", &format!("<ip address='192.168.122.1' prefix='24'/>{rest}"))
}

pub fn named(name: &str, forward: &str, bridge: &str, rest: &str) -> String {
    format!("<network><name>{name}</name>{forward}<bridge name='{bridge}'/>{rest}</network>\n")
}

pub const NAT: &str = "<forward mode='nat'/>";

/// `vnet apply` of files.
pub fn apply(scene: &Scene, arguments: &[&str]) -> Result<Output> {
    let mut command = vec!["apply", "--instance", &scene.instance];
    command.extend(arguments);
    scene.vnet(&command)
}

/// As [`apply`], which has to succeed and say this.
pub fn applied(scene: &Scene, arguments: &[&str], wanted: &str) -> Result<()> {
    let output = apply(scene, arguments)?;
    let seen = (output.status.code(), output.stdout.as_str());
    ensure!(seen == (Some(0), wanted), "{seen:?}\nis not\n{wanted:?}\n{}", output.stderr);
    Ok(())
}

/// Ends it by SIGKILL.
pub fn kill(mut running: Running) -> Result<()> {
    let output = running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    ensure!(killed_by(output.status, Signal::SIGKILL), "{:?}", output.status);
    Ok(())
}

/// Traffic that has to go on without a loss.
pub struct Traffic {
    udp: SteadyUdp,
    tcp: SteadyTcp,
    udp_echo: UdpEcho,
    _tcp_echo: TcpEcho,
}

impl Traffic {
    /// By the guests of the scene, which are in no network that changes.
    pub fn start(scene: &Scene) -> Result<Self> {
        Self::start_paced(scene, Duration::ZERO)
    }

    /// As [`Traffic::start`], with a pause after each answer.
    pub fn start_paced(scene: &Scene, pause: Duration) -> Result<Self> {
        let outside = &scene.lab.outside;
        let udp_echo = UdpEcho::start(outside, format!("{OUTSIDE}:7").parse()?)?;
        let tcp_echo = TcpEcho::start(outside, format!("{OUTSIDE}:7").parse()?)?;
        let from = "192.168.122.11:4000".parse()?;
        Ok(Self {
            udp: SteadyUdp::start_paced(&scene.lab.tap_guest, from, udp_echo.address(), pause)?,
            tcp: SteadyTcp::open_paced(&scene.lab.veth_guest, tcp_echo.address(), 5, pause)?,
            udp_echo,
            _tcp_echo: tcp_echo,
        })
    }

    /// Whether something has been lost so far.
    pub fn ensure_unbroken(&self) -> Result<()> {
        let report = self.udp.so_far();
        ensure!((report.lost, report.refused) == (0, 0), "{report:?}");
        Ok(())
    }

    /// Nothing was lost, and every flow has kept its external port. The datagrams that were sent.
    pub fn finish(self) -> Result<u64> {
        let report = self.udp.finish();
        let (rounds, broken) = self.tcp.finish();
        ensure!(report.sent > 0 && report.answered == report.sent, "{report:?}");
        ensure!((report.lost, report.refused) == (0, 0), "{report:?}");
        ensure!(rounds > 0 && broken.is_empty(), "{rounds} rounds, {broken:?}");
        let peers = self.udp_echo.peers();
        ensure!(peers.iter().all(|peer| *peer == peers[0]));
        println!("{} datagrams, {rounds} rounds of connections", report.sent);
        Ok(report.sent)
    }
}
