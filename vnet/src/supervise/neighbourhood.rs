//! What bridges know of stations, and neighbour tables of next hops, followed for the programs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{
    narrowing::{self, Features},
    pace::{Pace, Reading},
    shortcut,
    startup::Running,
    stations::{Entries, Stations},
};
use crate::{
    datapath::Datapath,
    host::{
        NetlinkError,
        forwarding_database::{self, Batch, Event, NeighbourWatch},
    },
    plan::XdpFeatures,
};

/// A change of somebody's filters is one of many, as a rule.
const LOOK: Duration = Duration::from_millis(100);

/// What is known of it.
pub(super) struct Neighbourhood {
    stations: Stations,
    /// Whether the map may say something else than `stations`.
    is_torn: bool,
    /// None where there are no short ways, or while nothing is read.
    watch: Option<NeighbourWatch>,
    /// None where there are no short ways.
    reading: Option<Reading>,
    /// Bridges that have other ports than when they were read.
    changed: BTreeSet<u32>,
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
    /// By bridge: what moves at one costs the ways of all.
    moves: HashMap<u32, Pace>,
    epochs: Pace,
    /// When to look at what others do with packets.
    look_at: Option<Instant>,
    /// What XDP the devices can do.
    pub features: Features,
    /// Guests can make devices change: each time everything is planned anew.
    follows: Pace,
}

/// Why there is something to do.
pub(super) enum Call {
    /// Something has changed.
    Changed(Batch),
    /// What XDP a device can do; none if some changes were lost.
    Features(Result<Option<(u32, XdpFeatures)>, NetlinkError>),
    /// It is time.
    Due,
}

impl Neighbourhood {
    /// With the stations that an earlier process has entered.
    pub fn begin(datapath: &mut Datapath) -> anyhow::Result<Self> {
        Ok(Self {
            stations: Stations::of(datapath.stations()?),
            is_torn: false,
            watch: None,
            reading: None,
            changed: BTreeSet::new(),
            neighbours: HashMap::new(),
            moves: HashMap::new(),
            // Each makes every flow be judged anew.
            epochs: Pace::new(Duration::from_secs(1), 3),
            look_at: None,
            features: Features::default(),
            follows: Pace::new(Duration::from_secs(1), 3),
        })
    }

    /// Waits until there is something to do; for ever without short ways. May be cancelled.
    pub async fn next(&mut self) -> Result<Call, NetlinkError> {
        let due = self.due();
        let heard = async {
            match &mut self.watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Also while there is always something to hear.
            biased;
            () = async { match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            } } => Ok(Call::Due),
            call = async { tokio::select! {
                features = self.features.next() => Ok(Call::Features(features)),
                heard = heard => heard.map(Call::Changed),
            } } => call,
        }
    }

    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let reading = self.reading.as_ref().map(|reading| reading.due(now));
        let moves = self.moves.values().filter_map(|moves| moves.due(now)).min();
        let paces = [self.epochs.due(now), self.follows.due(now)];
        [reading, moves, self.look_at].into_iter().chain(paces).flatten().min()
    }

    /// Whether there may be a new plan now; else it is due later.
    pub fn may_follow(&mut self) -> bool {
        self.follows.ask(Instant::now())
    }

    /// What is known cannot be relied on, see [`lose`]: the queue of the watch is older than what is read next.
    fn lose(&mut self) {
        self.watch = None;
        if let Some(reading) = &mut self.reading {
            reading.lose(Instant::now());
        }
    }

    /// Whether everything is known.
    pub fn is_followed(&self) -> bool {
        self.watch.is_some() && self.reading.as_ref().is_some_and(|reading| !reading.is_lost())
    }
}

/// Follows what the bridges know, and reads it where that is needed and not too soon.
pub(super) async fn watch(running: &mut Running) -> anyhow::Result<()> {
    let ports = &running.shortcut.allowed.ways.tables.ports;
    let place = &mut running.shortcut.neighbourhood;
    let changed = place.stations.set_ports(ports);
    let reading = place.reading.get_or_insert_with(Reading::new);
    if !changed.is_empty() {
        reading.want();
        place.changed.extend(changed);
    }
    if reading.due(Instant::now()) <= Instant::now() { read(running).await } else { Ok(()) }
}

/// Leaves nothing of what the bridges know, and hears no more of it.
pub(super) fn unwatch(running: &mut Running) -> anyhow::Result<()> {
    running.datapath.lease_short_ways(Duration::ZERO)?;
    let place = &mut running.shortcut.neighbourhood;
    (place.watch, place.reading, place.look_at) = (None, None, None);
    place.features.forget();
    place.changed.clear();
    place.neighbours.clear();
    place.moves.clear();
    place.stations.set_ports(&BTreeMap::new());
    let entries = place.stations.reconcile(&[], None);
    if !entries.is_empty() {
        write(running, &entries)?;
        running.datapath.note_move()?;
    }
    Ok(())
}

/// Does what it is time for. Whether there has to be a new plan.
pub(super) async fn tend(running: &mut Running) -> anyhow::Result<bool> {
    let now = Instant::now();
    let is_over = |due: Option<Instant>| due.is_some_and(|due| due <= now);
    let place = &mut running.shortcut.neighbourhood;
    let mut has_moved = false;
    for moves in place.moves.values_mut() {
        has_moved |= is_over(moves.due(now)) && moves.ask(now);
    }
    let is_epoch = is_over(place.epochs.due(now)) && place.epochs.ask(now);
    let follows = is_over(place.follows.due(now)) && place.follows.ask(now);
    let reads = place.reading.as_ref().is_some_and(|reading| reading.due(now) <= now);
    if has_moved {
        running.datapath.note_move()?;
    }
    if is_epoch {
        running.datapath.next_epoch()?;
    }
    if reads {
        read(running).await?;
        shortcut::renew_lease(running)?;
    }
    let look_at = &mut running.shortcut.neighbourhood.look_at;
    let looks = look_at.take_if(|look_at| *look_at <= now).is_some();
    Ok(follows || (looks && shortcut::has_other_surfaces(running).await))
}

/// Stations may have moved that are not known to: until everything is read, packets take the long way.
pub(super) fn lose(running: &mut Running) -> anyhow::Result<()> {
    running.shortcut.neighbourhood.lose();
    running.datapath.lease_short_ways(Duration::ZERO)?;
    Ok(())
}

/// Enters what has changed. Whether there has to be a new plan.
pub(super) fn note(running: &mut Running, batch: &Batch) -> anyhow::Result<bool> {
    if batch.overrun {
        lose(running)?;
        log::info!("notifications of forwarding databases were lost: reading them again");
        return Ok(false);
    }
    let now = Instant::now();
    let mut entries = Entries::new();
    let (mut moved, mut left) = (BTreeSet::new(), BTreeSet::new());
    let mut has_other_gateway = false;
    for event in &batch.events {
        if let Event::Left { interface } = event {
            left.insert(*interface);
        }
        let place = &mut running.shortcut.neighbourhood;
        moved.extend(place.stations.note(event, &mut entries));
        if let Event::TrafficControl { interface } = event
            && (*interface == forwarding_database::MANY_INTERFACES
                || running.shortcut.allowed.on_the_way.contains_key(interface))
        {
            place.look_at.get_or_insert(now + LOOK);
        }
        has_other_gateway |= is_other_gateway(running, event);
    }
    let written = write(running, &entries);
    let follows = narrowing::note_left(running, &left);
    note_moves(running, &moved, now)?;
    note_gateway(running, has_other_gateway, now)?;
    written?;
    follows
}

fn write(running: &mut Running, entries: &Entries) -> anyhow::Result<()> {
    if let Err(error) = running.datapath.write_stations(entries) {
        running.shortcut.neighbourhood.is_torn = true;
        lose(running)?;
        return Err(error.into());
    }
    Ok(())
}

/// A guest that is at two ports by turns must not cost others their ways all the time.
fn note_moves(running: &mut Running, at: &BTreeSet<u32>, now: Instant) -> anyhow::Result<()> {
    let paces = &mut running.shortcut.neighbourhood.moves;
    let mut is_noted = false;
    for bridge in at {
        let pace = paces.entry(*bridge).or_insert_with(|| Pace::new(Duration::from_millis(250), 8));
        is_noted |= pace.ask(now);
    }
    if is_noted {
        running.datapath.note_move()?;
    }
    Ok(())
}

fn note_gateway(running: &mut Running, has_other: bool, now: Instant) -> anyhow::Result<()> {
    if has_other && running.shortcut.neighbourhood.epochs.ask(now) {
        running.datapath.next_epoch()?;
    }
    Ok(())
}

/// Whether a next hop has another link-layer address than before.
fn is_other_gateway(running: &mut Running, event: &Event) -> bool {
    let Event::Neighbour { interface, address, mac } = *event else { return false };
    let is_uplink = || running.plan.uplinks.iter().any(|uplink| uplink.ifindex == interface);
    let Some(mac) = mac else { return false };
    if !running.shortcut.allowed.gateways.contains(&address) || !is_uplink() {
        return false;
    }
    let neighbours = &mut running.shortcut.neighbourhood.neighbours;
    neighbours.insert((interface, address), mac).is_some_and(|old| old != mac)
}

/// Reads bridges that have other ports, or all if anything may be otherwise than it is known.
async fn read(running: &mut Running) -> anyhow::Result<()> {
    let read = try_to_read(running).await;
    if let Some(reading) = &mut running.shortcut.neighbourhood.reading {
        reading.note(Instant::now(), read.is_ok());
    }
    read
}

async fn try_to_read(running: &mut Running) -> anyhow::Result<()> {
    let place = &mut running.shortcut.neighbourhood;
    let is_opened = place.watch.is_none();
    if is_opened {
        // Before the tables are read, so that no change is lost.
        place.watch = Some(NeighbourWatch::open()?);
    }
    let is_lost = place.reading.as_ref().is_none_or(Reading::is_lost);
    let changed = std::mem::take(&mut place.changed);
    let bridges = if is_lost || changed.is_empty() { place.stations.bridges() } else { changed };
    let mut known = Vec::new();
    for bridge in &bridges {
        known.extend(forwarding_database::stations(*bridge).await?);
    }
    if is_opened {
        let mut has_other = false;
        for neighbour in forwarding_database::neighbours().await? {
            has_other |= is_other_gateway(running, &neighbour);
        }
        note_gateway(running, has_other, Instant::now())?;
    }
    if running.shortcut.neighbourhood.is_torn {
        let entered = running.datapath.stations()?;
        running.shortcut.neighbourhood.stations.set_entered(entered);
        running.shortcut.neighbourhood.is_torn = false;
    }
    let entries = running.shortcut.neighbourhood.stations.reconcile(&known, Some(&bridges));
    write(running, &entries)?;
    // Whatever has moved meanwhile.
    if is_lost || !entries.is_empty() {
        running.datapath.note_move()?;
    }
    Ok(())
}
