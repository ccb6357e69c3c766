//! Two bonded wires to an outside station, and two equal flows by them.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
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
const ENOUGH: usize = 30;

/// How often the bonds look at their slaves, in milliseconds.
const MIIMON: u64 = 50;

/// A change of the links loses what is in flight: a datagram more or less of two flows that send in turn.
const IN_FLIGHT: u64 = 1;

/// Of two runs one after the other, one may lose a slave just before the bond looks at it and the other just
/// after: the datagrams of one such interval.
const UNSEEN: u64 = MIIMON / PACE.as_millis() as u64;

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

    /// Lets the station send whole checksums, as NICs deliver them: XDP cannot see which lack theirs.
    pub fn send_whole_checksums(&self) -> Result<()> {
        for device in ["p0", "p1", "wan"] {
            self.station.run(&["ethtool", "-K", device, "tx", "off"])?;
        }
        Ok(())
    }

    /// Answers at the station.
    pub fn echo(&self) -> Result<UdpEcho> {
        Ok(UdpEcho::start(&self.station, at(STATION, 7))?)
    }

    /// Guests reach the station, which sees them by these addresses.
    pub fn reach(&self, echo: &UdpEcho, guests: [&Node; 2], seen_as: [&str; 2]) -> Result<()> {
        let tcp = TcpEcho::start(&self.station, at(STATION, 7))?;
        let asked = echo.peers().len();
        for guest in guests {
            assert_eq!(guest.udp_ask(echo.address(), b"who am I", DEADLINE)?, b"who am I");
            assert_eq!(guest.ping_with(STATION, 3, &["-W", "10"])?.received, 3);
            drop(guest.tcp_connect(tcp.address(), DEADLINE)?);
        }
        let peers = echo.peers();
        let new: Vec<_> = peers.iter().skip(asked).map(|peer| peer.ip().to_string()).collect();
        assert_eq!(new, seen_as);
        Ok(())
    }

    /// Until the bond sends by exactly these slaves, which are sorted.
    pub fn wait_for(&self, slaves: &[&str]) -> Result<()> {
        wait_until(&format!("bond0 has {slaves:?}"), DEADLINE, || {
            let text = self.host.run(&["cat", "/proc/net/bonding/bond0"]);
            let text = text.map_err(|error| error.to_string())?;
            // In the order in which they came to the bond.
            let mut usable = usable(&text, self.mode);
            usable.sort_unstable();
            if usable == slaves { Ok(()) } else { Err(text) }
        })?;
        Ok(())
    }

    /// A cable is pulled, or plugged in again.
    pub fn plug(&self, peer: &str, state: &str) -> Result<()> {
        self.station.run(&["ip", "link", "set", peer, state])?;
        Ok(())
    }

    /// What two flows lose that send in turn while each slave fails in turn, and then one is taken out and put
    /// in again.
    pub fn losses(&self, sockets: [UdpSocket; 2]) -> Result<[u64; 2]> {
        let flows = Flows::start(sockets)?;
        self.fail_each_slave(&flows)?;
        Ok(flows.finish())
    }

    fn fail_each_slave(&self, flows: &Flows) -> Result<()> {
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
        self.wait_for(&["s0", "s1"])?;
        flows.wait_for_answers()
    }
}

/// How often [`Bonded::fail_each_slave`] takes a wire away or gives it back.
const CHANGES: u64 = 6;

/// How many of these take one away.
const FAILURES: u64 = 3;

/// How often the comparison is made: what vnet costs shows each time, what the machine is busy with does not.
const ROUNDS: u16 = 3;

/// What two flows of [`Bonded::losses`] lost.
#[derive(Debug)]
pub struct Lost {
    pub with: [u64; 2],
    /// When the same was done without vnet, before it and after it.
    pub without: [[u64; 2]; 2],
}

impl Lost {
    /// The first of each two flows is compared: with the bond's other one of the same moments, and with the bond
    /// without vnet.
    fn is_no_worse(&self) -> bool {
        let in_flight = CHANGES * IN_FLIGHT;
        let most = self.without.iter().map(|losses| losses[0]).max().unwrap_or_default();
        self.with[0] <= self.with[1] + in_flight
            && self.with[0] <= most + in_flight + FAILURES * UNSEEN
    }
}

/// Compares until vnet has lost no more; `measure` gets a number to add to its ports, another one each time.
pub fn is_no_worse(mut measure: impl FnMut(u16) -> Result<Lost>) -> Result<()> {
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let lost = measure(round * 10)?;
        println!("{lost:?}");
        if lost.is_no_worse() {
            return Ok(());
        }
        all.push(lost);
    }
    bail!("vnet has lost more each time: {all:?}")
}

/// Makes a bond with settings that find a dead slave soon, and waits for nothing.
fn bond(on: &Node, name: &str, mode: &str, slaves: [&str; 2]) -> Result<()> {
    let interval = MIIMON.to_string();
    let mut add =
        vec!["ip", "link", "add", name, "type", "bond", "mode", mode, "miimon", &interval];
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
#[derive(Debug, Clone, Default)]
struct Count {
    sent: u64,
    /// Which of them were answered.
    answered: BTreeSet<u64>,
}

impl Count {
    fn lost(&self) -> u64 {
        (0..self.sent).filter(|number| !self.answered.contains(number)).count() as u64
    }
}

/// Two flows to one echo server that send in turn.
struct Flows {
    counts: Arc<Mutex<[Count; 2]>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flows {
    fn start(sockets: [UdpSocket; 2]) -> Result<Self> {
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        let counts = Arc::new(Mutex::new([Count::default(), Count::default()]));
        let stop = Arc::new(AtomicBool::new(false));
        let shared = (Arc::clone(&counts), Arc::clone(&stop));
        let thread = thread::spawn(move || exchange(&sockets, &shared.0, &shared.1));
        Ok(Self { counts, stop, thread: Some(thread) })
    }

    fn answered(&self) -> [usize; 2] {
        self.counts.lock().unwrap().each_ref().map(|count| count.answered.len())
    }

    /// Until both have got some more answers.
    fn wait_for_answers(&self) -> Result<()> {
        let before = self.answered();
        wait_until("answers of both flows", DEADLINE, || {
            let now = self.answered();
            let is_enough = |flow: usize| now[flow] >= before[flow] + ENOUGH;
            if is_enough(0) && is_enough(1) { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
        })?;
        Ok(())
    }

    /// Ends both; how many datagrams each has lost.
    fn finish(mut self) -> [u64; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.counts.lock().unwrap().each_ref().map(Count::lost)
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
    let mut end = None;
    while end.is_none_or(|end: Instant| end.elapsed() < LAST) {
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(Instant::now());
        }
        for (socket, count) in sockets.iter().zip(counts.lock().unwrap().iter_mut()) {
            if end.is_none() {
                // A datagram that cannot leave is lost as well.
                let _ = socket.send(&count.sent.to_be_bytes());
                count.sent += 1;
            }
            receive(socket, count);
        }
        thread::sleep(PACE);
    }
}

/// Takes what has arrived, until nothing has or the socket tells an error, which comes with an ICMP message;
/// what is behind it is taken the next time.
fn receive(socket: &UdpSocket, count: &mut Count) {
    let mut number = [0; 8];
    loop {
        match socket.recv(&mut number) {
            Ok(length) => {
                assert_eq!(length, number.len(), "an answer of another length");
                let number = u64::from_be_bytes(number);
                assert!(number < count.sent, "an answer to a datagram that was never sent");
                count.answered.insert(number);
            }
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    println!("a flow's socket: {error}");
                }
                return;
            }
        }
    }
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}
