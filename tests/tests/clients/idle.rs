//! Connections over which nothing is said for long, as those of ssh.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use nix::time::{ClockId, clock_gettime};
use vnet_common::flow::{Phase, Session};
use vnet_common::{names::map, timeout::NANOSECONDS};
use vnet_tests::lab::services::{TcpEcho, UdpEcho};
use vnet_tests::lab::wait_until;
use vnet_tests::programs::Plain;
use vnet_tests::vnet::Flow;

use crate::internet::*;

/// How long a sweep over the whole table may take on a busy machine.
const SWEEP: Duration = Duration::from_secs(60);
/// For what nobody answers.
const SILENCE: Duration = Duration::from_millis(300);
const TWO_HOURS: u64 = 2 * 60 * 60;
/// UDP's idle time, which the test needs to see the sweep at work.
const UDP: u64 = 300;

fn assert_echoes(mut stream: &TcpStream, line: &[u8]) {
    let mut back = vec![0; line.len()];
    stream.write_all(line).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, line);
}

fn wait_until_gone(net: &Internet, is_it: impl Fn(&Flow) -> bool) -> anyhow::Result<()> {
    wait_until("the sweep has ended the other flow", SWEEP, || {
        let flows = net.vnet.flows().map_err(|error| error.to_string())?;
        if flows.iter().any(&is_it) { Err(format!("{flows:#?}")) } else { Ok(()) }
    })?;
    Ok(())
}

/// Winds the clock of every flow back by writing to the running daemon's table.
fn age(net: &Internet, seconds: u64) -> anyhow::Result<()> {
    let pin = net.vnet.pinned(map::SESSIONS);
    net.host.enter(|| -> anyhow::Result<()> {
        let mut sessions =
            Array::<_, Plain<Session>>::try_from(Map::Array(MapData::from_pin(pin)?))?;
        for index in 0..sessions.len() {
            let mut session = sessions.get(&index, 0)?.0;
            if session.generation == 0 && session.phase == Phase::Free as u32 {
                // No slot behind this one was ever used.
                break;
            }
            session.last_outbound = session.last_outbound.saturating_sub(seconds * NANOSECONDS);
            session.last_inbound = session.last_inbound.saturating_sub(seconds * NANOSECONDS);
            sessions.set(index, Plain(session), 0)?;
        }
        Ok(())
    })?
}

/// Two hours, or as long as the machine's clock can be wound back: at least longer than transitory
/// connections and UDP live; none if it cannot.
fn long_idle() -> anyhow::Result<Option<u64>> {
    let uptime = clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec().cast_unsigned();
    let idle = TWO_HOURS.min(uptime.saturating_sub(10));
    if idle <= UDP + 10 {
        eprintln!("skipped: the machine's clock began {uptime} s ago and cannot be wound back");
        return Ok(None);
    }
    println!("idle for {idle} s");
    Ok(Some(idle))
}

#[test]
fn connection_that_was_idle_for_two_hours_goes_on() -> anyhow::Result<()> {
    let Some(idle) = long_idle()? else { return Ok(()) };
    on_each_port(|net| {
        for family in FAMILIES {
            let tcp = TcpEcho::start(&net.server, at(family.server, 22))?;
            let udp = UdpEcho::start(&net.server, at(family.server, 7))?;
            let stream = net.guest.tcp_connect(tcp.address(), DEADLINE)?;
            assert_echoes(&stream, b"login");
            assert_eq!(net.guest.udp_ask(udp.address(), b"short", DEADLINE)?, b"short");
            let before = tcp.peers();
            age(net, idle)?;
            wait_until_gone(net, |flow| flow.protocol == "udp")?;
            assert_echoes(&stream, b"still there");
            assert_eq!(tcp.peers(), before);
        }
        Ok(())
    })
}

#[test]
fn server_that_speaks_first_after_two_hours_is_heard() -> anyhow::Result<()> {
    let Some(idle) = long_idle()? else { return Ok(()) };
    on_each_port(|net| {
        for family in FAMILIES {
            let address = at(family.server, 22);
            let listener = net.server.enter(|| TcpListener::bind(address))??;
            let udp = UdpEcho::start(&net.server, at(family.server, 7))?;
            let mut stream = net.guest.tcp_connect(address, DEADLINE)?;
            let (mut server, _) = listener.accept()?;
            assert_eq!(net.guest.udp_ask(udp.address(), b"short", DEADLINE)?, b"short");
            age(net, idle)?;
            wait_until_gone(net, |flow| flow.protocol == "udp")?;
            let mut heard = [0; 8];
            server.write_all(b"reboot!\n")?;
            stream.read_exact(&mut heard)?;
            assert_eq!(&heard, b"reboot!\n");
        }
        Ok(())
    })
}

#[test]
fn established_connection_outlives_one_that_was_never_answered() -> anyhow::Result<()> {
    with_options("<vnet:timeouts tcp-transitory='2'/>", |net| {
        for (family, nobody) in FAMILIES.into_iter().zip(["192.0.2.99", "2001:db8:3::99"]) {
            let tcp = TcpEcho::start(&net.server, at(family.server, 22))?;
            let stream = net.guest.tcp_connect(tcp.address(), DEADLINE)?;
            assert_echoes(&stream, b"login");
            let to_nobody = |flow: &Flow| flow.remote.ip() == ip(nobody);
            assert!(net.guest.tcp_connect(at(nobody, 22), SILENCE).is_err());
            assert!(net.vnet.flows()?.iter().any(to_nobody));
            wait_until_gone(net, to_nobody)?;
            let flows = net.vnet.flows()?;
            let flow = flows.iter().find(|flow| flow.remote == tcp.address()).unwrap();
            assert_eq!(flow.state, "established");
            assert_echoes(&stream, b"still there");
        }
        Ok(())
    })
}
