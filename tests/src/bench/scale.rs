//! What more of everything costs: flows, networks, guests, ports in use; and memory.

mod memory;
mod ports;

use std::time::Duration;

use anyhow::Result;

use super::{
    progress,
    rate::Samples,
    report::{Figure, Unit, median},
    site::{Beyond, Flows, Forwarding, Layout, Load, Way, cpus_suffice, number},
};

const TIME: Duration = Duration::from_millis(400);
const FLOWS: [u32; 4] = [1, 1 << 10, 1 << 16, 1 << 20];
/// Connection tracking has room for four times as many where nobody has changed that.
const FLOWS_OF_MASQUERADE: u32 = 1 << 16;
const MAX_FLOWS: u32 = (1 << 20) + (1 << 16);
const NETWORKS: [usize; 3] = [1, 100, 1000];
const GUESTS: [u32; 3] = [16, 1 << 10, 1 << 14];
const WANTED: [Forwarding; 4] =
    [Forwarding::Floor, Forwarding::Masquerade, Forwarding::LongWays, Forwarding::Vnet];

pub(super) fn measure(rounds: usize, networks: usize) -> Result<(Vec<Figure>, Vec<String>)> {
    cpus_suffice()?;
    let mut figures = flows(rounds)?;
    figures.extend(of_guests(rounds)?);
    figures.extend(of_networks(rounds, networks)?);
    figures.extend(ports::measure(rounds)?);
    let notes = vec![
        format!(
            "nft masquerade is measured with {FLOWS_OF_MASQUERADE} flows at most: connection tracking has room for \
             262,144 on such a machine, and that is set for all of it."
        ),
        format!(
            "By live flows, vnet runs with `--max-flows {MAX_FLOWS}`; at least 99 % of the flows are live, by its own \
             count and by connection tracking's."
        ),
        "Packets go round all flows, so that each is of another flow than the last: the worst case for caches."
            .to_owned(),
    ];
    Ok((figures, notes))
}

/// Net times at each place of a scale, by forwarding.
struct Scale {
    topic: &'static str,
    of: &'static str,
    points: Vec<(Forwarding, f64, Vec<f64>)>,
}

impl Scale {
    fn new(topic: &'static str, of: &'static str) -> Self {
        Self { topic, of, points: Vec::new() }
    }

    /// Opens flows and measures packets of all of them, once the sites are as they are at a place of the scale.
    fn take(
        &mut self,
        samples: &mut Samples,
        (rounds, count): (usize, u64),
        flows: Flows,
    ) -> Result<()> {
        progress(&format!("scale: {count} {}", self.of));
        samples.each(|of, site| if of.forwards() { site.open(flows) } else { Ok(()) })?;
        for _ in 0..rounds {
            samples.take(Way::Out, |site| site.measure(Way::Out, flows, Load::For(TIME)))?;
        }
        for of in samples.forwardings().filter(|of| of.forwards()) {
            self.points.push((of, number(count), samples.net(of, Way::Out)));
        }
        samples.forget();
        Ok(())
    }

    /// Each beside the least count of its own.
    fn figures(self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for wanted in Forwarding::ALL {
            let points = || self.points.iter().filter(|(of, ..)| *of == wanted);
            let Some((_, least, first)) = points().next() else { continue };
            let baseline = format!("of {least:.0} {}", self.of);
            for (of, count, values) in points() {
                let reference = (median(first), &*baseline);
                let figure = Figure::new(
                    (self.topic, of.name()),
                    Unit::Nanoseconds,
                    values.clone(),
                    reference,
                );
                figures.push(figure.at(*count, self.of));
            }
        }
        figures
    }
}

fn flows(rounds: usize) -> Result<Vec<Figure>> {
    let of = |forwarding| Layout { max_flows: Some(MAX_FLOWS), ..Layout::of(forwarding) };
    let mut samples = Samples::new(&WANTED, of)?;
    let mut scale = Scale::new("CPU time of a packet, net, by live flows", "live flows");
    let mut resident = Vec::new();
    for count in FLOWS {
        if count > FLOWS_OF_MASQUERADE {
            samples.retire(Forwarding::Masquerade)?;
        }
        scale.take(&mut samples, (rounds, count.into()), Flows::of_one_guest(count))?;
        let vnet = samples.site(Forwarding::Vnet).and_then(|site| site.base().vnet.as_ref());
        resident.push((count, vnet.map_or(Ok(0), memory::resident)?));
    }
    let mut figures = scale.figures();
    if let Some(site) = samples.site(Forwarding::Vnet) {
        figures.extend(memory::figures(site, MAX_FLOWS, &resident)?);
    }
    samples.finish()?;
    Ok(figures)
}

fn of_guests(rounds: usize) -> Result<Vec<Figure>> {
    let mut samples = Samples::new(&WANTED, Layout::of)?;
    let mut scale = Scale::new("CPU time of a packet, net, by guests", "guests");
    for count in GUESTS {
        let flows = Flows { count, beyond: Beyond::EachGuest };
        scale.take(&mut samples, (rounds, count.into()), flows)?;
    }
    samples.finish()?;
    Ok(scale.figures())
}

fn of_networks(rounds: usize, most: usize) -> Result<Vec<Figure>> {
    const WANTED: [Forwarding; 3] = [Forwarding::Floor, Forwarding::Masquerade, Forwarding::Vnet];
    let flows = Flows::of_one_guest(256);
    let mut scale = Scale::new("CPU time of a packet, net, by networks", "networks");
    for networks in NETWORKS.into_iter().filter(|networks| *networks <= most) {
        let of = |forwarding: Forwarding| {
            // What drops has no networks.
            let networks = if forwarding.forwards() { networks } else { 1 };
            Layout { networks, ..Layout::of(forwarding) }
        };
        let mut samples = Samples::new(&WANTED, of)?;
        scale.take(&mut samples, (rounds, networks as u64), flows)?;
        samples.finish()?;
    }
    Ok(scale.figures())
}
