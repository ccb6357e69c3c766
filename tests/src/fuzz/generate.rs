//! Sequences from a seed: a small world, so that the same endpoints meet again and again.

use std::net::SocketAddr;

use vnet_common::{
    flow::protocol,
    names::{FORWARDED_MARK, INBOUND_MARK},
};

use super::rng::Rng;
use super::step::{Body, Damage, End, Interface, Sent, Setting, Spec, Step};

/// Guests, their bridges, in the order of how often they speak.
const GUESTS: [(&str, u16); 6] = [
    ("192.168.122.10", 1),
    ("192.168.122.11", 1),
    ("192.168.122.12", 1),
    ("10.1.0.5", 1),
    ("192.168.123.10", 2),
    ("192.168.123.11", 2),
];
const GUESTS_6: [(&str, u16); 5] = [
    ("fd00:122::10", 1),
    ("fd00:122::11", 1),
    ("fd00:a1::5", 1),
    ("fd00:122:5::7", 1),
    ("fd00:123::10", 2),
];
/// Guests of the networks that are not masqueraded, or bound.
const OTHERS: [(&str, u16); 6] = [
    ("192.168.124.10", 3),
    ("172.16.5.10", 5),
    ("172.20.0.7", 5),
    ("172.16.7.10", 7),
    ("172.16.9.10", 9),
    ("172.16.11.10", 11),
];
const OTHERS_6: [(&str, u16); 6] = [
    ("fd00:124::10", 3),
    ("2001:db8:5::10", 5),
    ("2001:db8:5000::7", 5),
    ("2001:db8:7::10", 7),
    ("fd00:9::10", 9),
    ("2001:db8:11::10", 11),
];
/// Remotes: by the default route, on the uplink's link, by `eth1`, by an interface without hooks.
const REMOTES: [&str; 5] =
    ["192.0.2.10", "192.0.2.11", "198.51.100.77", "198.18.3.9", "198.18.4.9"];
const REMOTES_6: [&str; 4] =
    ["2001:db8:86dd::10", "2001:db8:86dd::11", "2001:db8:1803::9", "2001:db8:1804::9"];
/// The host's own addresses, groups, and what is nobody's.
const ODD: [&str; 14] = [
    "127.0.0.1",
    "240.0.0.1",
    "192.168.122.1",
    "198.51.100.1",
    "203.0.113.1",
    "10.99.0.1",
    "192.168.122.255",
    "224.0.0.251",
    "239.1.2.3",
    "255.255.255.255",
    "0.0.0.0",
    "172.16.5.1",
    "203.0.113.140",
    "169.254.1.1",
];
const ODD_6: [&str; 10] = [
    "::1",
    "fd00:122::1",
    "2001:db8:100::1",
    "2001:db8:113::1",
    "ff02::1",
    "ff05::2",
    "fe80::1",
    "::",
    "2001:db8:5::1",
    "fd00:122::",
];
/// Few ports, one of them a socket's of the host's, one in the host's ephemeral range.
const INSIDE_PORTS: [u16; 8] = [1024, 1025, 1026, 1027, 1028, 5060, 40000, 22];
const REMOTE_PORTS: [u16; 3] = [80, 53, 443];
/// Where forwards may be.
const FORWARDED_PORTS: [u16; 4] = [1025, 5060, 22, 8080];
const FLAGS: [u8; 12] = [0x02, 0x12, 0x10, 0x18, 0x11, 0x01, 0x04, 0x14, 0x00, 0x02, 0x10, 0x3f];
/// Router alert, record route, no operation, end of options.
const OPTIONS: [&str; 3] = ["94040000", "07070400000000 00", "01010101"];

/// A conversation of a guest: what it sends, and by which bridge.
#[derive(Clone, Copy)]
struct Talk {
    guest: SocketAddr,
    slot: u16,
    remote: SocketAddr,
    kind: u8,
}

/// Makes up steps.
pub(super) struct Generator {
    rng: Rng,
    talks: Vec<Talk>,
    ready: Vec<Step>,
    identification: u16,
}

/// So many steps of a seed.
pub(super) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut generator =
        Generator { rng: Rng::new(seed), talks: Vec::new(), ready: Vec::new(), identification: 0 };
    let mut steps = generator.configuration();
    while steps.len() < count {
        generator.more();
        // Fragments and the like may come in any order and between others.
        if generator.rng.once_in(4) && generator.ready.len() < 4 {
            generator.more();
        }
        while let Some(step) = generator.ready.pop() {
            steps.push(step);
            if generator.rng.once_in(6) {
                break;
            }
        }
    }
    steps
}

impl Generator {
    /// How this world differs from the usual one.
    fn configuration(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let rng = &mut self.rng;
        for slot in [1, 2] {
            if rng.once_in(3) {
                let last = 1024 + rng.below(12) as u16;
                steps.push(Step::Network(slot, Setting::Ports(1024, last)));
            } else if rng.once_in(4) {
                let limit = 1 + rng.below(12) as u32;
                steps.push(Step::Network(slot, Setting::FlowsPerGuest(limit)));
            }
            if rng.once_in(10) {
                let limit = 1 + rng.below(8) as u32;
                steps.push(Step::Network(slot, Setting::PortsPerGuest(limit)));
            }
            if rng.once_in(12) {
                let limit = 2 + rng.below(30) as u32;
                steps.push(Step::Network(slot, Setting::FlowLimit(limit)));
            }
            if rng.once_in(6) {
                steps.push(Step::Network(slot, Setting::Pool(1 + rng.below(3) as u8)));
            }
            if rng.once_in(8) {
                steps.push(Step::Network(slot, Setting::Mtu(1400)));
            }
            if rng.once_in(8) {
                steps.push(Step::Network(slot, Setting::ModeIpv6(2)));
            }
            if rng.once_in(3) {
                steps.push(Step::Network(slot, Setting::EndpointIndependent(true)));
            }
        }
        for _ in 0..self.rng.below(4) {
            let forward = self.forward();
            steps.push(forward);
        }
        let rng = &mut self.rng;
        // Of two things that may be used up by chance, which one it was shows in the counters alone.
        let has_few_ports =
            steps.iter().any(|step| matches!(step, Step::Network(_, Setting::Ports(..))));
        if !has_few_ports && rng.once_in(6) {
            steps.push(Step::Sessions(4 + rng.below(20) as u32));
        }
        if rng.once_in(8) {
            steps.push(Step::Tokens(rng.below(6) as u64));
        }
        steps
    }

    fn more(&mut self) {
        match self.rng.below(100) {
            0..40 => self.guest_sends(),
            40..46 => self.guest_calls_guest(),
            46..72 => self.reply(),
            72..79 => self.error(),
            79..84 => self.fragments(),
            84..90 => self.through_stack(),
            90..95 => self.unsolicited(),
            95..97 => self.noise(),
            97 => self.stranger(),
            _ => self.change(),
        }
    }

    fn push(&mut self, at: Interface, spec: Spec) {
        let spec = self.spoiled(spec);
        self.ready.push(Step::Packet(Sent { at, leaves: false, came_by: None, mark: 0, spec }));
    }

    fn address(&mut self, choices: &[&str]) -> std::net::IpAddr {
        self.rng.of(choices).parse().expect("an address")
    }

    /// A talk that there was, or a new one.
    fn talk(&mut self) -> Talk {
        if !self.talks.is_empty() && self.rng.below(10) < 6 {
            let place = self.rng.below(self.talks.len());
            return self.talks[place];
        }
        let ipv6 = self.rng.once_in(4);
        let other = self.rng.once_in(12);
        let (guest, slot) = match (ipv6, other) {
            (false, false) => self.rng.of(&GUESTS),
            (false, true) => self.rng.of(&OTHERS),
            (true, false) => self.rng.of(&GUESTS_6),
            (true, true) => self.rng.of(&OTHERS_6),
        };
        let remote = match self.rng.below(30) {
            0 => self.address(if ipv6 { &ODD_6 } else { &ODD }),
            1 | 2 => {
                let (address, _) = if ipv6 { self.rng.of(&OTHERS_6) } else { self.rng.of(&OTHERS) };
                address.parse().expect("an address")
            }
            3 => {
                let (address, _) = if ipv6 { self.rng.of(&GUESTS_6) } else { self.rng.of(&GUESTS) };
                address.parse().expect("an address")
            }
            _ => self.address(if ipv6 { &REMOTES_6 } else { &REMOTES }),
        };
        let guest = guest.parse().expect("an address");
        let talk = Talk {
            guest: SocketAddr::new(guest, self.rng.of(&INSIDE_PORTS)),
            slot,
            remote: SocketAddr::new(remote, self.rng.of(&REMOTE_PORTS)),
            kind: self.rng.below(21) as u8,
        };
        if self.talks.len() == 40 {
            self.talks.remove(0);
        }
        self.talks.push(talk);
        talk
    }

    fn body(&mut self, talk: &Talk, from_guest: bool) -> Body {
        match talk.kind {
            0..7 => Body::Tcp(self.rng.of(&FLAGS)),
            7..12 => {
                if self.rng.once_in(5) {
                    Body::UdpBare
                } else {
                    Body::Udp
                }
            }
            12..15 => {
                if from_guest {
                    Body::Request
                } else {
                    Body::Reply
                }
            }
            15 | 16 => Body::Ported(protocol::SCTP),
            17 => Body::Ported(self.rng.of(&[protocol::UDP_LITE, protocol::DCCP])),
            18 => Body::Raw(protocol::GRE),
            19 => Body::Raw(self.rng.of(&[protocol::ESP, 4, 41])),
            _ => match self.rng.below(3) {
                0 => Body::Raw(self.rng.of(&[47, 50, 132, 4, 89, 58, 1])),
                1 => Body::Icmp(self.rng.of(&[8, 0, 13, 14, 5, 9, 3, 128, 133, 135, 2]), 0),
                _ => {
                    if from_guest {
                        Body::Reply
                    } else {
                        Body::Request
                    }
                }
            },
        }
    }

    fn guest_sends(&mut self) {
        let talk = self.talk();
        let body = self.body(&talk, true);
        let spec = Spec::new(End::Fixed(talk.guest), End::Fixed(talk.remote), body);
        self.push(Interface::bridge(talk.slot), spec);
    }

    /// A guest to another one by its external endpoint, or an error about what came from there.
    fn guest_calls_guest(&mut self) {
        let Some(last) = self.talks.len().checked_sub(1) else { return };
        let one = self.talks[self.rng.below(last + 1)];
        let mut other = self.talks[self.rng.below(last + 1)];
        for _ in 0..6 {
            let fits = other.guest.is_ipv4() == one.guest.is_ipv4()
                && (other.kind < 7) == (one.kind < 7)
                && other.guest != one.guest;
            if fits {
                break;
            }
            other = self.talks[self.rng.below(last + 1)];
        }
        if other.guest.is_ipv4() != one.guest.is_ipv4() {
            return;
        }
        let uplink = self.uplink(&other);
        let to = End::External(other.guest, uplink);
        let spec = if self.rng.once_in(8) {
            let body = self.body(&one, true);
            let mut about = Spec::new(to, End::Fixed(one.guest), body);
            about.payload = self.rng.below(24) as u16;
            let kind = if one.guest.is_ipv6() { (1, 4) } else { (3, 3) };
            let body = Body::Error(kind.0, kind.1, Box::new(about), 200);
            Spec::new(End::Fixed(one.guest), to, body)
        } else {
            let body = self.body(&one, true);
            Spec::new(End::Fixed(one.guest), to, body)
        };
        self.push(Interface::bridge(one.slot), spec);
    }

    /// The uplink where a talk's packets leave.
    fn uplink(&mut self, talk: &Talk) -> Interface {
        let usual = match talk.remote.ip().to_string() {
            text if text.starts_with("198.18.3.") || text.starts_with("2001:db8:1803:") => {
                Interface::ETH1
            }
            text => {
                let others = OTHERS.iter().chain(&OTHERS_6);
                let network = others.clone().find(|(address, _)| *address == text);
                network.map_or(Interface::ETH0, |(_, slot)| Interface::bridge(*slot))
            }
        };
        if self.rng.once_in(20) { self.rng.of(&[Interface::ETH0, Interface::ETH1]) } else { usual }
    }

    fn answer(&mut self, talk: &Talk, uplink: Interface) -> Spec {
        let body = self.body(talk, false);
        Spec::new(End::Fixed(talk.remote), End::External(talk.guest, uplink), body)
    }

    fn reply(&mut self) {
        let Some(last) = self.talks.len().checked_sub(1) else { return };
        let place = self.rng.below(self.talks.len());
        // Of two draws the later one, because its flow is more likely to be there.
        let talk = self.talks[place.max(self.rng.below(last + 1))];
        let uplink = self.uplink(&talk);
        let spec = self.answer(&talk, uplink);
        self.push(uplink, spec);
    }

    /// An ICMP error about a packet of a talk, from either side.
    fn error(&mut self) {
        let talk = self.talk();
        let uplink = self.uplink(&talk);
        let (kind, code) = if talk.remote.is_ipv6() {
            self.rng.of(&[(1, 4), (2, 0), (3, 0), (4, 0)])
        } else {
            self.rng.of(&[(3, 3), (3, 4), (11, 0), (12, 0), (4, 0)])
        };
        let from_outside = !self.rng.once_in(3);
        let (reporter, receiver, mut about) = if from_outside {
            let body = self.body(&talk, true);
            let external = End::External(talk.guest, uplink);
            let about = Spec::new(external, End::Fixed(talk.remote), body);
            let router = if self.rng.once_in(2) {
                talk.remote
            } else {
                SocketAddr::new(
                    self.address(if talk.remote.is_ipv6() { &REMOTES_6 } else { &REMOTES }),
                    0,
                )
            };
            (End::Fixed(router), external, about)
        } else {
            let body = self.body(&talk, false);
            let about = Spec::new(End::Fixed(talk.remote), End::Fixed(talk.guest), body);
            (End::Fixed(talk.guest), End::Fixed(talk.remote), about)
        };
        about.payload = self.rng.below(24) as u16;
        about.ttl = self.rng.of(&[1, 63]);
        if self.rng.once_in(12) {
            self.rng.of(&OPTIONS).clone_into(&mut about.options);
        }
        if self.rng.once_in(10) {
            about.fragment = Some((16, 0));
        }
        let whole = self.rng.once_in(2);
        let length = if whole { 200 } else { self.rng.below(72) as u16 };
        let body = Body::Error(kind, code, Box::new(about), length);
        let spec = Spec::new(reporter, receiver, body);
        let at = if from_outside { uplink } else { Interface::bridge(talk.slot) };
        self.push(at, spec);
    }

    /// A datagram in fragments, in order or not, sometimes with one missing.
    fn fragments(&mut self) {
        let talk = self.talk();
        let from_guest = self.rng.once_in(2);
        let (at, mut spec) = if from_guest {
            let body = self.body(&talk, true);
            let spec = Spec::new(End::Fixed(talk.guest), End::Fixed(talk.remote), body);
            (Interface::bridge(talk.slot), spec)
        } else {
            let uplink = self.uplink(&talk);
            (uplink, self.answer(&talk, uplink))
        };
        spec.payload = 64;
        if !self.rng.once_in(4) {
            self.identification = self.identification.wrapping_add(1);
        }
        spec.id = self.identification;
        let size = self.rng.of(&[24, 32, 40, 8]);
        let count = self.rng.of(&[2, 3, 3, 4]);
        let mut order: Vec<u16> = (0..count).collect();
        if self.rng.once_in(3) {
            let (one, other) = (self.rng.below(order.len()), self.rng.below(order.len()));
            order.swap(one, other);
        }
        // What is ready is taken from the end.
        for place in order.into_iter().rev() {
            let spec = Spec { fragment: Some((size, place)), ..spec.clone() };
            if !self.rng.once_in(12) {
                self.push(at, spec);
            }
        }
    }

    /// What the host's stack sends out, forwarded or its own.
    fn through_stack(&mut self) {
        let talk = self.talk();
        let mark = match self.rng.below(12) {
            0 => FORWARDED_MARK,
            1 => INBOUND_MARK,
            2 => 7,
            _ => 0,
        };
        let bridge = Interface::bridge(talk.slot);
        let uplink = self.uplink(&talk);
        let (at, came_by, spec) = match self.rng.below(8) {
            // The host itself talks to that remote, with the guest's external port.
            7 => {
                let own = End::External(talk.guest, uplink);
                let from_guest = !self.rng.once_in(4);
                let body = self.body(&talk, from_guest);
                (uplink, None, Spec::new(own, End::Fixed(talk.remote), body))
            }
            0..3 => {
                let body = self.body(&talk, true);
                let spec = Spec::new(End::Fixed(talk.guest), End::Fixed(talk.remote), body);
                let came_by = self.rng.of(&[Some(bridge), Some(bridge), Some(bridge), None]);
                (uplink, came_by, spec)
            }
            3 => {
                let spec = self.answer(&talk, uplink);
                (bridge, Some(uplink), spec)
            }
            5 => {
                let body = self.body(&talk, false);
                let spec = Spec::new(End::Fixed(talk.remote), End::Fixed(talk.guest), body);
                let came_by = self.rng.of(&[
                    None,
                    Some(uplink),
                    Some(Interface::VPN0),
                    Some(Interface::VIRBR1),
                    Some(Interface::bridge(5)),
                ]);
                (bridge, came_by, spec)
            }
            // The host tells of a better way.
            4 => {
                let body = self.body(&talk, false);
                let about = Spec::new(End::Fixed(talk.remote), End::Fixed(talk.guest), body);
                let kind = if talk.remote.is_ipv6() { 137 } else { 5 };
                let own = self.address(if kind == 137 { &ODD_6[2..4] } else { &ODD[3..5] });
                let body = Body::Error(kind, 1, Box::new(about), 60);
                let mut spec =
                    Spec::new(End::Fixed(SocketAddr::new(own, 0)), End::Fixed(talk.remote), body);
                if let std::net::IpAddr::V6(guest) = talk.guest.ip() {
                    let field = guest.octets().into_iter().zip(14 + 40 + 24..);
                    spec.damage.extend(field.map(|(byte, at)| Damage::Byte(at, byte)));
                }
                (self.rng.of(&[uplink, uplink, bridge]), None, spec)
            }
            // The host's error about what it was bringing to a guest.
            _ => {
                let body = self.body(&talk, false);
                let about = Spec::new(End::Fixed(talk.remote), End::Fixed(talk.guest), body);
                let kind = if talk.remote.is_ipv6() { (3, 0) } else { (11, 0) };
                let body = Body::Error(kind.0, kind.1, Box::new(about), 60);
                let own =
                    self.address(if talk.remote.is_ipv6() { &ODD_6[2..4] } else { &ODD[3..5] });
                let from = End::Fixed(SocketAddr::new(own, 0));
                (uplink, None, Spec::new(from, End::Fixed(talk.remote), body))
            }
        };
        let spec = self.spoiled(spec);
        self.ready.push(Step::Packet(Sent { at, leaves: true, came_by, mark, spec }));
    }

    /// What nobody has asked for: from outside, from guests with others' addresses.
    fn unsolicited(&mut self) {
        let talk = self.talk();
        let ipv6 = talk.guest.is_ipv6();
        let uplink = self.uplink(&talk);
        let (at, from, to) = match self.rng.below(5) {
            0 => (uplink, talk.remote, talk.guest),
            1 => {
                let other = self.address(if ipv6 { &ODD_6 } else { &ODD });
                (uplink, SocketAddr::new(other, 53), talk.guest)
            }
            2 => {
                let own = self.address(if ipv6 { &ODD_6 } else { &ODD });
                (uplink, talk.remote, SocketAddr::new(own, self.rng.of(&INSIDE_PORTS)))
            }
            3 => {
                let slot = self.rng.of(&[1, 2, 3, 5, 9, 11]);
                (Interface::bridge(slot), talk.guest, talk.remote)
            }
            _ => {
                let own = self.address(if ipv6 { &ODD_6 } else { &ODD });
                (Interface::bridge(talk.slot), SocketAddr::new(own, 9), talk.remote)
            }
        };
        let from_guest = self.rng.once_in(2);
        let body = self.body(&talk, from_guest);
        self.push(at, Spec::new(End::Fixed(from), End::Fixed(to), body));
    }

    /// A port forward to a guest.
    fn forward(&mut self) -> Step {
        let ipv6 = self.rng.once_in(4);
        let (guest, slot) = if ipv6 { self.rng.of(&GUESTS_6) } else { self.rng.of(&GUESTS) };
        let guest = guest.parse().expect("an address");
        let to = SocketAddr::new(guest, self.rng.of(&INSIDE_PORTS));
        let number = self.rng.of(&[protocol::TCP, protocol::UDP, protocol::SCTP]);
        Step::Forward(number, self.rng.of(&FORWARDED_PORTS), to, slot)
    }

    /// Who speaks first, from outside or as a guest: to a mapping, or to where a forward may be. The guest
    /// may answer.
    fn stranger(&mut self) {
        let talk = self.talk();
        let ipv6 = talk.guest.is_ipv6();
        let address = self.address(if ipv6 { &REMOTES_6 } else { &REMOTES });
        let stranger = SocketAddr::new(address, self.rng.of(&[7, 9, 11, 53, 80]));
        let kind = self.rng.of(&[0, 7, 7, 15]);
        let talk = Talk { remote: stranger, kind, ..talk };
        let to = if self.rng.once_in(2) {
            End::External(talk.guest, Interface::ETH0)
        } else {
            let own = if ipv6 { "2001:db8:100::1" } else { "198.51.100.1" };
            let own = own.parse().expect("an address");
            End::Fixed(SocketAddr::new(own, self.rng.of(&FORWARDED_PORTS)))
        };
        let body = match kind {
            0 => Body::Tcp(self.rng.of(&[0x02, 0x02, 0x02, 0x10, 0x12])),
            7 => Body::Udp,
            _ => Body::Ported(protocol::SCTP),
        };
        if self.rng.once_in(4) {
            let from = End::Fixed(talk.guest);
            self.push(Interface::bridge(talk.slot), Spec::new(from, to, body));
            return;
        }
        self.talks.push(talk);
        let at = self.rng.of(&[Interface::ETH0, Interface::ETH0, Interface::ETH0, Interface::ETH1]);
        let mut spec = Spec::new(End::Fixed(stranger), to, body);
        if self.rng.once_in(10) {
            spec.payload = 64;
            spec.fragment = Some((24, self.rng.below(3) as u16));
        }
        self.push(at, spec);
    }

    /// Random bytes behind a header that is right.
    fn noise(&mut self) {
        let talk = self.talk();
        let outside = self.rng.once_in(2);
        let uplink = self.uplink(&talk);
        let (at, mut spec) = if outside {
            (uplink, self.answer(&talk, uplink))
        } else {
            let body = self.body(&talk, true);
            let spec = Spec::new(End::Fixed(talk.guest), End::Fixed(talk.remote), body);
            (Interface::bridge(talk.slot), spec)
        };
        spec.payload = self.rng.below(40) as u16;
        for _ in 0..=self.rng.below(6) {
            let offset = 12 + self.rng.below(60) as u16;
            spec.damage.push(Damage::Byte(offset, self.rng.next() as u8));
        }
        self.push(at, spec);
    }

    fn change(&mut self) {
        let step = match self.rng.below(15) {
            13 => self.forward(),
            14 => Step::Network(
                1 + self.rng.below(2) as u16,
                Setting::EndpointIndependent(self.rng.once_in(2)),
            ),
            0..5 => Step::Epoch,
            5..8 => Step::Wait(1 + self.rng.below(4) as u64),
            8 | 9 => {
                let without = self.rng.once_in(4);
                let addresses: &[&str] = self.rng.of(&[
                    &["198.51.100.1/24", "2001:db8:100::1/64"] as &[&str],
                    &["198.51.100.2/24", "198.51.100.1/24", "2001:db8:100::2/64"],
                    &["198.51.100.1/24", "2001:db8:100::1/64"],
                    &["198.51.100.1/24", "198.51.100.2/24", "2001:db8:100::1/64"],
                    if without { &[] } else { &["198.51.100.2/24"] },
                ]);
                let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
                Step::Uplink(Interface::ETH0, addresses)
            }
            10 => Step::Network(1 + self.rng.below(2) as u16, self.setting()),
            11 => Step::Network(1, Setting::Mode(1)),
            _ => Step::Tokens(self.rng.of(&[0, 3, 1 << 40])),
        };
        self.ready.push(step);
    }

    fn setting(&mut self) -> Setting {
        match self.rng.below(11) {
            8 => Setting::PortsPerGuest(self.rng.of(&[2, 4, 256, 256])),
            9 => Setting::FlowLimit(self.rng.of(&[6, 20, u32::MAX, u32::MAX])),
            0 => Setting::Mode(self.rng.of(&[0, 1, 1, 2, 3])),
            1 => Setting::ModeIpv6(self.rng.of(&[0, 1, 1, 2])),
            2 => Setting::Ports(1024, 65535),
            3 => Setting::FlowsPerGuest(256),
            4 => Setting::Bound(self.rng.once_in(2)),
            5 => Setting::Mtu(self.rng.of(&[1400, 1500])),
            6 => Setting::Pool(self.rng.below(3) as u8),
            7 => Setting::IsolatedPorts(self.rng.once_in(2)),
            _ => Setting::Mode(1),
        }
    }

    /// Once in a while something is unusual about a packet, or wrong.
    fn spoiled(&mut self, mut spec: Spec) -> Spec {
        if self.rng.below(8) != 0 {
            return spec;
        }
        match self.rng.below(12) {
            0 | 1 => spec.ttl = self.rng.of(&[0, 1, 2, 255]),
            2 => self.rng.of(&OPTIONS).clone_into(&mut spec.options),
            3 => {
                for _ in 0..=self.rng.below(3) {
                    spec.extensions
                        .push((self.rng.of(&[0, 60, 43, 44, 60]), self.rng.below(2) as u8));
                }
            }
            4 => spec.payload = self.rng.of(&[1472, 1473, 1400, 1360, 3]),
            5..8 => spec.damage.push(Damage::Cut(14 + self.rng.below(70) as u16)),
            8 => spec.damage.push(Damage::Pad(1 + self.rng.below(20) as u16)),
            9 => {
                // Lengths, offsets, checksums: one byte of the headers.
                let offset = 14 + self.rng.below(48) as u16;
                spec.damage.push(Damage::Byte(offset, self.rng.next() as u8));
            }
            10 => {
                // Version and header length; total length.
                let (offset, value) = self.rng.of(&[
                    (14, 0x44),
                    (14, 0x46),
                    (14, 0x4f),
                    (14, 0x65),
                    (14, 0x55),
                    (16, 0xff),
                    (17, 0),
                    (17, 20),
                    (17, 27),
                    (17, 28),
                    (18, 0),
                    (19, 0),
                    (19, 7),
                    (5, 0x11),
                    (12, 0x09),
                    (0, 0x01),
                    (0, 0x53),
                ]);
                spec.damage.push(Damage::Byte(offset, value));
            }
            _ => spec.fragment = Some((self.rng.of(&[8, 16, 24]), self.rng.below(3) as u16)),
        }
        spec
    }
}
