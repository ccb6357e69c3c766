//! Small packets through a host: what forwarding one costs, and how many go through.
//!
//! The time of a packet is what the kernel's accounting says of the thread that has forwarded it: gross, and net
//! of what the same thread needs where the packet is dropped by the first program that sees it.

use std::time::Duration;

use anyhow::Result;
use vnet_common::family::Family;

use super::{
    progress,
    report::{Figure, Unit},
    site::{Flows, Forwarding, Layout, Load, Sample, Site, Way, cpus_suffice},
    turns::{Turns, compared},
};
use crate::lab::PortKind;

const TIME: Duration = Duration::from_millis(500);
/// Packets to a guest on a tap in a second: as many as somebody can read on the CPU that generates them. Where the
/// queue is full, some of what is dropped is counted nowhere.
const PACE_TO_TAP: u32 = 100_000;
const FLOWS: Flows = Flows::of_one_guest(256);

/// What a run of all forwardings has in common.
#[derive(Debug, Clone, Copy)]
struct Rig {
    name: &'static str,
    port: PortKind,
    family: Family,
}

const RIGS: [Rig; 3] = [
    Rig { name: "veth, IPv4", port: PortKind::Veth, family: Family::Ipv4 },
    Rig { name: "veth, IPv6", port: PortKind::Veth, family: Family::Ipv6 },
    Rig { name: "tap, IPv4", port: PortKind::Tap, family: Family::Ipv4 },
];

impl Rig {
    fn load(self, way: Way) -> Load {
        if self.is_paced(way) { Load::paced(PACE_TO_TAP / 2, PACE_TO_TAP) } else { Load::For(TIME) }
    }

    /// Whether there is no rate to speak of.
    fn is_paced(self, way: Way) -> bool {
        self.port == PortKind::Tap && way == Way::In
    }
}

pub(super) fn measure(rounds: usize) -> Result<(Vec<Figure>, Vec<String>)> {
    cpus_suffice()?;
    let (forwardings, notes) = Forwarding::available(&Forwarding::ALL)?;
    let mut figures = Vec::new();
    for rig in RIGS {
        let of_rig =
            |forwarding| Layout { port: rig.port, family: rig.family, ..Layout::of(forwarding) };
        let mut samples = Samples::new(&forwardings, of_rig)?;
        for way in Way::BOTH {
            for round in 0..rounds {
                progress(&format!("rate, {}, {}: round {}", rig.name, way.name(), round + 1));
                samples.take(way, |site| site.measure(way, FLOWS, rig.load(way)))?;
            }
            let mut all = samples.figures(&format!("{}, {}", way.name(), rig.name), way);
            all.retain(|figure| figure.unit != Unit::PacketsPerSecond || !rig.is_paced(way));
            figures.extend(all);
            samples.forget();
        }
        samples.finish()?;
    }
    Ok((figures, notes))
}

/// What is measured of several sites in turn.
pub(super) struct Samples {
    sites: Vec<(Forwarding, Site)>,
    taken: Turns<Sample>,
}

impl Samples {
    pub fn new(forwardings: &[Forwarding], layout: impl Fn(Forwarding) -> Layout) -> Result<Self> {
        let sites = forwardings
            .iter()
            .map(|forwarding| Ok((*forwarding, Site::new(layout(*forwarding))?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { taken: Turns::new(forwardings), sites })
    }

    /// One of each that has it.
    pub fn take(
        &mut self,
        way: Way,
        mut measure: impl FnMut(&mut Site) -> Result<Sample>,
    ) -> Result<()> {
        for (of, site) in &mut self.sites {
            if way == Way::In || *of != Forwarding::FloorOfXdp {
                self.taken.push(*of, measure(site)?);
            }
        }
        Ok(())
    }

    /// Does something with each.
    pub fn each(
        &mut self,
        mut work: impl FnMut(Forwarding, &mut Site) -> Result<()>,
    ) -> Result<()> {
        self.sites.iter_mut().try_for_each(|(of, site)| work(*of, site))
    }

    pub fn forwardings(&self) -> impl Iterator<Item = Forwarding> {
        self.sites.iter().map(|(of, _)| *of)
    }

    pub fn site(&self, of: Forwarding) -> Option<&Site> {
        self.sites.iter().find(|(other, _)| *other == of).map(|(_, site)| site)
    }

    /// Goes on without one.
    pub fn retire(&mut self, of: Forwarding) -> Result<()> {
        let Some(place) = self.sites.iter().position(|(other, _)| *other == of) else {
            return Ok(());
        };
        self.sites.remove(place).1.finish()
    }

    pub fn forget(&mut self) {
        let forwardings: Vec<_> = self.forwardings().collect();
        self.taken = Turns::new(&forwardings);
    }

    /// Nanoseconds of a packet.
    pub fn gross(&self, of: Forwarding) -> Vec<f64> {
        self.taken.values(of, |sample| sample.gross)
    }

    /// Of a forwarding, less what the same rig needs in the same round without it.
    pub fn net(&self, of: Forwarding, way: Way) -> Vec<f64> {
        let floor = if of == Forwarding::Xdp && way == Way::In {
            Forwarding::FloorOfXdp
        } else {
            Forwarding::Floor
        };
        let floor = self.gross(floor);
        self.gross(of).iter().zip(floor).map(|(gross, floor)| gross - floor).collect()
    }

    fn figures(&self, what: &str, way: Way) -> Vec<Figure> {
        let forwards: Vec<_> = self.forwardings().filter(|of| of.forwards()).collect();
        let topic = |name: &str| format!("{name}, {what}");
        let (net, gross) =
            (topic("CPU time of a packet, net"), topic("CPU time of a packet, gross"));
        let mut figures = compared(&net, Unit::Nanoseconds, &forwards, |of| self.net(of, way));
        let all = self.taken.forwardings();
        figures.extend(compared(&gross, Unit::Nanoseconds, &all, |of| self.gross(of)));
        let rate = topic("packet rate");
        figures.extend(self.taken.compared(&rate, Unit::PacketsPerSecond, |sample| sample.rate));
        figures
    }

    pub fn finish(self) -> Result<()> {
        self.sites.into_iter().try_for_each(|(_, site)| site.finish())
    }
}
