//! Two bonded wires to an outside station, and two equal flows by them.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use vnet_tests::lab::{
    End, Lab, Node,
    services::{TcpEcho, UdpEcho},
    wait_until,
};

/// For a change of the links, or for an answer.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often each flow sends: seldom enough that no queue overflows on an emulated machine.
const PACE: Duration = Duration::from_millis(10);

/// Datagrams of each flow that have to be answered before a test goes on.
const ENOUGH: u64 = 30;

/// Two flows send in turn, so that what takes the wire away from one takes it from the other; but each time
/// that a wire goes or comes it may do so between the two.
const BETWEEN: u64 = 1;

/// The outside's address.
pub const STATION: &str = "203.0.113.1";

/// A host with `bond0` over `s0` and `s1`, which lead to `p0` and `p1` of a station whose `wan` has
/// 203.0.113.1/24: a bond of the same mode, or for mode 1 a bridge.
#[derive(Debug)]
pub struct Bonded {
    pub lab: Lab,
    pub host: Node,
    pub station: Node,
    mode: &'static str,
}

impl Bonded {
    pub fn new(mode: &'static str) -> Result<Self> {
        let lab = Lab::new()?;
        let (host, station) = (lab.host("host")?, lab.station("station")?);
        for (slave, peer) in [("s0", "p0"), ("s1", "p1")] {
            lab.wire(&End::new(&host, slave), &End::new(&station, peer))?;
        }
        bond(&host, "bond0", mode, ["s0", "s1"])?;
        if mode == "active-backup" {
            station.ip_batch(&[
                "link add wan type bridge forward_delay 0".to_owned(),
                "link set p0 master wan".to_owned(),
                "link set p1 master wan".to_owned(),
                "link set wan up".to_owned(),
            ])?;
        } else {
            bond(&station, "wan", mode, ["p0", "p1"])?;
        }
        station.add_address("wan", &format!("{STATION}/24"))?;
        let bonded = Self { lab, host, station, mode };
        bonded.wait_for(&["s0", "s1"])?;
        Ok(bonded)
    }

    /// Serves guests at the station, which sees them by these addresses, and shows that they get there.
    pub fn serve(&self, guests: [&Node; 2], seen_as: [&str; 2]) -> Result<UdpEcho> {
        let echo = UdpEcho::start(&self.station, at(STATION, 7))?;
        let tcp = TcpEcho::start(&self.station, at(STATION, 7))?;
        for guest in guests {
            assert_eq!(guest.udp_ask(echo.address(), b"who am I", DEADLINE)?, b"who am I");
            assert_eq!(guest.ping_with(STATION, 3, &["-W", "10"])?.received, 3);
            drop(guest.tcp_connect(tcp.address(), DEADLINE)?);
        }
        let outside: Vec<_> = echo.peers().iter().map(|peer| peer.ip().to_string()).collect();
        assert_eq!(outside, seen_as);
        Ok(echo)
    }

    /// Until the bond sends by exactly these slaves.
    pub fn wait_for(&self, slaves: &[&str]) -> Result<()> {
        wait_until(&format!("bond0 has {slaves:?}"), DEADLINE, || {
            let text = self.host.run(&["cat", "/proc/net/bonding/bond0"]);
            let text = text.map_err(|error| error.to_string())?;
            if usable(&text, self.mode) == slaves { Ok(()) } else { Err(text) }
        })?;
        Ok(())
    }

    /// A cable is pulled, or plugged in again.
    pub fn plug(&self, peer: &str, state: &str) -> Result<()> {
        self.station.run(&["ip", "link", "set", peer, state])?;
        Ok(())
    }

    /// Fails each slave in turn, then takes one out and puts it in again, while both flows go on.
    pub fn fail_each_slave(&self, flows: &Flows) -> Result<()> {
        flows.wait_for_answers()?;
        for (peer, left) in [("p0", "s1"), ("p1", "s0")] {
            self.plug(peer, "down")?;
            self.wait_for(&[left])?;
            flows.wait_for_answers()?;
            self.plug(peer, "up")?;
            self.wait_for(&["s0", "s1"])?;
            flows.wait_for_answers()?;
        }
        self.plug("p0", "down")?;
        self.wait_for(&["s1"])?;
        self.host.run(&["ip", "link", "set", "s0", "nomaster"])?;
        flows.wait_for_answers()?;
        self.host
            .ip_batch(&["link set s0 down".to_owned(), "link set s0 master bond0".to_owned()])?;
        self.plug("p0", "up")?;
        self.wait_for(&["s1", "s0"])?;
        flows.wait_for_answers()
    }
}

/// How often [`Bonded::fail_each_slave`] takes a wire away or gives it back.
pub const CHANGES: u64 = 6;

/// Makes a bond with settings that find a dead slave soon, and waits for nothing.
fn bond(on: &Node, name: &str, mode: &str, slaves: [&str; 2]) -> Result<()> {
    let mut add = vec!["ip", "link", "add", name, "type", "bond", "mode", mode, "miimon", "50"];
    if mode == "802.3ad" {
        add.extend(["lacp_rate", "fast"]);
    }
    on.run(&add)?;
    let mut lines = Vec::new();
    for slave in slaves {
        lines.push(format!("link set {slave} down"));
        lines.push(format!("link set {slave} master {name}"));
    }
    lines.push(format!("link set {name} up"));
    on.ip_batch(&lines)?;
    Ok(())
}

/// The slaves that send or may be called to, as `bond_info_show_slave` in
/// `drivers/net/bonding/bond_procfs.c` tells; in mode 4, those that have found their partner.
fn usable(text: &str, mode: &str) -> Vec<String> {
    let active = text.lines().find_map(|line| line.trim().strip_prefix("Aggregator ID: "));
    let mut sections = text.split("Slave Interface: ");
    let general = sections.next().unwrap_or_default();
    let has_active = mode != "active-backup" || !general.contains("Currently Active Slave: None");
    sections
        .filter(|section| has_active && section.contains("MII Status: up"))
        .filter(|section| {
            let own = section.lines().find_map(|line| line.trim().strip_prefix("Aggregator ID: "));
            let is_collecting = section
                .split("details partner lacp pdu:")
                .nth(1)
                .and_then(|partner| {
                    partner.lines().find_map(|line| line.trim().strip_prefix("port state: "))
                })
                .and_then(|state| state.parse::<u8>().ok())
                // Synchronised, collecting and distributing (IEEE 802.1AX, 6.4.2.3).
                .is_some_and(|state| state & 0x38 == 0x38);
            mode != "802.3ad" || (own == active && is_collecting)
        })
        .filter_map(|section| section.lines().next().map(|name| name.trim().to_owned()))
        .collect()
}

/// What became of a flow's datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub sent: u64,
    pub answered: u64,
}

impl Count {
    const fn lost(self) -> u64 {
        self.sent - self.answered
    }
}

/// Two flows to one echo server that send in turn.
pub struct Flows {
    counts: Arc<Mutex<[Count; 2]>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flows {
    /// The first one is vnet's, the second one does without.
    pub fn start(sockets: [UdpSocket; 2]) -> Result<Self> {
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        let counts = Arc::new(Mutex::new([Count::default(); 2]));
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (Arc::clone(&counts), Arc::clone(&stop));
        let thread = thread::spawn(move || exchange(&sockets, &shared.0, &shared.1));
        Ok(Self { counts, stop, thread: Some(thread) })
    }

    fn so_far(&self) -> [Count; 2] {
        *self.counts.lock().unwrap()
    }

    /// Until both have got some more answers.
    pub fn wait_for_answers(&self) -> Result<()> {
        let before = self.so_far();
        wait_until("answers of both flows", DEADLINE, || {
            let now = self.so_far();
            let is_enough = |flow: usize| now[flow].answered >= before[flow].answered + ENOUGH;
            if is_enough(0) && is_enough(1) { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
        })?;
        Ok(())
    }

    /// Ends both: vnet's has lost no more than the other, but for what went between the two.
    pub fn finish(mut self, changes: u64) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let [ours, plain] = self.so_far();
        println!(
            "of {} datagrams vnet's flow lost {}, the other {}",
            ours.sent,
            ours.lost(),
            plain.lost()
        );
        ensure!(ours.lost() <= plain.lost() + changes * BETWEEN, "{ours:?} {plain:?}");
        Ok(())
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn exchange(sockets: &[UdpSocket; 2], counts: &Mutex<[Count; 2]>, stop: &AtomicBool) {
    /// After the last datagram, for its answer.
    const LAST: Duration = Duration::from_secs(2);
    let mut own = [Count::default(); 2];
    let mut end = None;
    while end.is_none_or(|end: Instant| end.elapsed() < LAST) {
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(Instant::now());
        }
        for (socket, count) in sockets.iter().zip(&mut own) {
            if end.is_none() {
                // A datagram that cannot leave is lost as well.
                let _ = socket.send(&count.sent.to_be_bytes());
                count.sent += 1;
            }
            loop {
                match socket.recv(&mut [0; 16]) {
                    Ok(_) => count.answered += 1,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
        *counts.lock().unwrap() = own;
        thread::sleep(PACE);
    }
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}
