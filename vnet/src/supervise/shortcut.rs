//! The short ways: XDP where there is any, and what bridges know of stations.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use vnet_common::shortcut::XdpMode;

use super::{
    narrowing::{self, Features},
    pause::pause,
    startup::Running,
    state,
    stations::{Entries, Stations},
};
use crate::{
    datapath::{Attachment, Datapath, DatapathError, Direction, Hook, HookSpec},
    host::{
        NetlinkError, Snapshot, bridge_rules, ethtool,
        forwarding_database::{self, Batch, Event, NeighbourWatch},
        xdp,
    },
    instance::state::{ShortcutState, XdpState},
    notify,
    plan::{
        Plan, ShortcutTables, Shortcuts, Surfaces, VlanOffloads, XdpFeatures, XdpPlace, XdpSetting,
        devices_for_xdp,
    },
};

/// What is known of the short ways.
pub(super) struct Shortcut {
    /// XDP programs that are attached.
    pub hooks: Vec<Hook>,
    pub allowed: Allowed,
    /// Why devices have no XDP, as it was said.
    refusals: BTreeMap<u32, String>,
    stations: Stations,
    /// None where there are no short ways.
    watch: Option<NeighbourWatch>,
    features: Features,
    /// Whether what the bridges know has to be read.
    must_read: bool,
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
}

/// A change.
pub(super) enum Notice {
    /// Of what bridges and neighbour tables know.
    Known(Batch),
    /// Of what XDP a device can do; none if some changes were lost.
    Features(Option<(u32, XdpFeatures)>),
}

/// What the settings and the host allow.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowed {
    is_on: bool,
    ways: Shortcuts,
    setting: XdpSetting,
    rules: Option<String>,
    /// Next hops by whose link-layer addresses flows may go.
    gateways: BTreeSet<IpAddr>,
}

impl Shortcut {
    /// With the XDP programs of an earlier process, and the stations that it has entered.
    pub fn begin(hooks: Vec<Hook>, datapath: &mut Datapath) -> anyhow::Result<Self> {
        Ok(Self {
            hooks,
            allowed: Allowed::default(),
            refusals: BTreeMap::new(),
            stations: Stations::of(datapath.stations()?),
            watch: None,
            features: Features::default(),
            must_read: false,
            neighbours: HashMap::new(),
        })
    }

    /// What short ways depend on has changed; never without them. May be cancelled.
    pub async fn next(&mut self) -> Result<Notice, NetlinkError> {
        let watch = async {
            match &mut self.watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            batch = watch => batch.map(Notice::Known),
            features = self.features.next() => features.map(Notice::Features),
        }
    }

    /// What other processes are told.
    pub fn state(&self) -> ShortcutState {
        let xdp = self.allowed.ways.xdp.iter().map(|place| {
            let hook = self.hooks.iter().find(|hook| hook.spec.ifindex == place.ifindex);
            let refusal = place.refusal.as_ref().or(self.refusals.get(&place.ifindex));
            XdpState {
                interface: place.name.clone(),
                ifindex: place.ifindex,
                program: place.program.to_owned(),
                program_id: hook.map(|hook| hook.program_id),
                reason: refusal.filter(|_| hook.is_none()).cloned(),
            }
        });
        ShortcutState {
            on: self.allowed.is_on,
            setting: self.allowed.setting,
            xdp: xdp.collect(),
            long_ways: self.allowed.ways.long_ways.clone(),
        }
    }
}

/// Makes the programs' maps say what the plan and the host allow. Comes before a new epoch begins. Returns what
/// failed without harm; with an error the maps may allow what they should not.
pub(super) async fn enter(
    running: &mut Running,
    plan: &Plan,
    host: &Snapshot,
    setting: XdpSetting,
) -> anyhow::Result<Option<String>> {
    let surfaces = if plan.short_ways {
        // Before it is asked, so that no change is lost.
        running.shortcut.features.listen().await;
        let features = xdp::features().await.inspect_err(|error| log::debug!("{error}"));
        let vlan = vlan_offloads(plan, host).await;
        Surfaces { rules: rules().await, xdp: features.ok().flatten(), vlan }
    } else {
        Surfaces::default()
    };
    let mut ways = Shortcuts::of(plan, host, setting, &surfaces);
    // The next step of a change begins one in any case.
    let written = running.datapath.write_shortcut(&ways.tables);
    if written.is_err() {
        // Whatever is wrong with the maps: packets can do without.
        ways.tables = ShortcutTables::default();
        running.datapath.write_shortcut(&ways.tables)?;
    }
    let before = &running.shortcut.allowed;
    for way in ways.long_ways.iter().filter(|way| !before.ways.long_ways.contains(way)) {
        log::info!("{way}");
    }
    let is_vain = |is_on: bool, setting| !is_on && setting == XdpSetting::On;
    if is_vain(plan.short_ways, setting) && !is_vain(before.is_on, before.setting) {
        log::warn!("`--xdp on` does nothing without `--short-ways on`");
    }
    let hops = host.routes.iter().flat_map(|route| &route.hops);
    running.shortcut.allowed = Allowed {
        is_on: plan.short_ways,
        ways,
        setting,
        rules: surfaces.rules,
        gateways: hops.filter_map(|hop| hop.gateway).collect(),
    };
    pause("short-ways").await;
    Ok(written.err().map(|error| error.to_string()))
}

/// Attaches XDP where it is to be and takes it off elsewhere, and enters what bridges know. None of it is a
/// reason to go back: packets go on by TC. Returns what failed.
pub(super) async fn settle(running: &mut Running, level: log::Level) -> Vec<String> {
    let mut failures = Vec::new();
    let before = running.shortcut.state();
    failures.extend(detach_unwanted(running, level).await);
    let mode = match running.shortcut.allowed.setting {
        XdpSetting::On => XdpMode::On,
        XdpSetting::Auto | XdpSetting::Off => XdpMode::Auto,
    };
    failures.extend(running.datapath.set_xdp_mode(mode).err().map(|error| error.to_string()));
    attach_missing(running, level).await;
    let watched =
        if running.shortcut.allowed.is_on { watch(running).await } else { unwatch(running) };
    failures.extend(watched.err().map(|error| format!("{error:#}")));
    pause("stations").await;
    if running.shortcut.state() != before {
        failures.extend(state::write(running).err().map(|error| format!("{error:#}")));
    }
    failures
}

/// Follows what the bridges know, and reads it where that is needed.
async fn watch(running: &mut Running) -> anyhow::Result<()> {
    let shortcut = &mut running.shortcut;
    let ports = shortcut.allowed.ways.tables.ports.clone();
    shortcut.must_read |= shortcut.stations.set_ports(&ports);
    if shortcut.watch.is_none() {
        // Before the tables are read, so that no change is lost.
        shortcut.must_read = true;
        shortcut.watch = Some(NeighbourWatch::open()?);
    }
    if shortcut.must_read { read_stations(running).await } else { Ok(()) }
}

/// Lets the short ways hold on, while there are any: what is known of bridges is true as long as somebody follows
/// them.
pub(super) fn renew_lease(running: &mut Running) -> anyhow::Result<()> {
    /// Some rounds of the daemon.
    const LEASE: Duration = Duration::from_secs(15);
    if running.shortcut.watch.is_some() && !running.shortcut.must_read {
        running.datapath.lease_short_ways(LEASE)?;
    }
    Ok(())
}

/// Leaves nothing of what the bridges know, and hears no more of it.
fn unwatch(running: &mut Running) -> anyhow::Result<()> {
    running.datapath.lease_short_ways(Duration::ZERO)?;
    let shortcut = &mut running.shortcut;
    shortcut.watch = None;
    shortcut.features.forget();
    shortcut.must_read = false;
    shortcut.neighbours.clear();
    shortcut.stations.set_ports(&BTreeMap::new());
    let entries = shortcut.stations.reconcile(&[]);
    if !entries.is_empty() {
        running.datapath.write_stations(&entries)?;
        running.datapath.note_move()?;
    }
    Ok(())
}

/// Listens anew, and reads what bridges know, in the next round.
pub(super) fn listen_anew(running: &mut Running) {
    running.shortcut.watch = None;
    running.shortcut.features.forget();
}

/// Enters what has changed. Whether there has to be a new plan.
pub(super) fn note(running: &mut Running, notice: &Notice) -> anyhow::Result<bool> {
    match notice {
        Notice::Known(batch) => note_known(running, batch).map(|()| false),
        Notice::Features(change) => narrowing::note_features(running, *change),
    }
}

fn note_known(running: &mut Running, batch: &Batch) -> anyhow::Result<()> {
    if batch.overrun {
        // With its queue, which is older than what is read then: the round reads, so that a flood costs little.
        running.shortcut.watch = None;
        log::debug!("notifications of forwarding databases were lost: reading them again");
        return Ok(());
    }
    let mut entries = Entries::new();
    let (mut has_moved, mut has_other_gateway) = (false, false);
    for event in &batch.events {
        if let Event::Left { interface } = event {
            narrowing::note_left(running, *interface)?;
        }
        has_moved |= running.shortcut.stations.note(event, &mut entries);
        has_other_gateway |= is_other_gateway(running, event);
    }
    if let Err(error) = running.datapath.write_stations(&entries) {
        running.shortcut.must_read = true;
        return Err(error.into());
    }
    if has_moved {
        running.datapath.note_move()?;
    }
    if has_other_gateway {
        running.datapath.next_epoch()?;
    }
    Ok(())
}

/// Whether something has changed that the kernel sends no notice of.
pub(super) async fn is_changed(running: &mut Running) -> bool {
    let allowed = &running.shortcut.allowed;
    let mut is_changed = allowed.is_on && rules().await != allowed.rules;
    let is_unread = running.shortcut.must_read || running.shortcut.watch.is_none();
    if running.shortcut.allowed.is_on && is_unread {
        let watched = watch(running).await;
        if let Err(error) = watched {
            log::warn!("cannot read what bridges know of stations: {error:#}");
        }
    }
    for hook in &mut running.shortcut.hooks {
        hook.is_lost = !hook.is_inherited && !hook.is_attached().await;
        is_changed |= hook.is_lost;
    }
    is_changed
}

/// What is not known is taken for the worst.
async fn vlan_offloads(plan: &Plan, host: &Snapshot) -> BTreeMap<u32, VlanOffloads> {
    let devices: Vec<u32> = devices_for_xdp(plan, host).iter().map(|link| link.index).collect();
    ethtool::vlan_offloads(&devices).await.unwrap_or_else(|error| {
        log::debug!("{error}");
        let unknown = VlanOffloads { strips: true, filters: false };
        devices.into_iter().map(|device| (device, unknown)).collect()
    })
}

/// What is not known is taken for a reason.
async fn rules() -> Option<String> {
    match bridge_rules::reason().await {
        Ok(reason) => reason,
        Err(error) => Some(format!("rules for bridges cannot be read: {error}")),
    }
}

/// Whether a next hop has another link-layer address than before.
fn is_other_gateway(running: &mut Running, event: &Event) -> bool {
    let Event::Neighbour { interface, address, mac } = *event else { return false };
    let is_uplink = || running.plan.uplinks.iter().any(|uplink| uplink.ifindex == interface);
    let Some(mac) = mac else { return false };
    if !running.shortcut.allowed.gateways.contains(&address) || !is_uplink() {
        return false;
    }
    running.shortcut.neighbours.insert((interface, address), mac).is_some_and(|old| old != mac)
}

async fn read_stations(running: &mut Running) -> anyhow::Result<()> {
    running.shortcut.must_read = true;
    let known = forwarding_database::stations().await?;
    // What was entered last may not be there.
    let entered = running.datapath.stations()?;
    running.shortcut.stations.set_entered(entered);
    let entries = running.shortcut.stations.reconcile(&known);
    running.datapath.write_stations(&entries)?;
    // Whatever has moved meanwhile.
    running.datapath.note_move()?;
    running.shortcut.must_read = false;
    Ok(())
}

fn is_wanted(places: &[XdpPlace], hook: &Hook) -> bool {
    places.iter().any(|place| place.refusal.is_none() && place.ifindex == hook.spec.ifindex)
}

async fn detach_unwanted(running: &mut Running, level: log::Level) -> Vec<String> {
    let mut failures = Vec::new();
    let places = running.shortcut.allowed.ways.xdp.clone();
    let mut kept = Vec::new();
    for hook in std::mem::take(&mut running.shortcut.hooks) {
        notify::progress();
        if is_wanted(&places, &hook) {
            kept.push(hook);
        } else if let Err(error) = hook.detach().await {
            failures.push(error.to_string());
            kept.push(hook);
        } else {
            log::log!(level, "XDP is off at `{}`", hook.spec.interface);
            pause(&format!("detached-{}-{}", hook.spec.program, hook.spec.interface)).await;
        }
    }
    running.shortcut.hooks = kept;
    failures
}

/// Devices that take no program go without, which is said once.
async fn attach_missing(running: &mut Running, level: log::Level) {
    let places = running.shortcut.allowed.ways.xdp.clone();
    let mut refusals = BTreeMap::new();
    for place in &places {
        notify::progress();
        let refused = match &place.refusal {
            Some(reason) => Some(reason.clone()),
            None => attach(running, place, level).await.err().map(|error| match error {
                DatapathError::Attach { reason, .. } => reason,
                error => error.to_string(),
            }),
        };
        refusals.extend(refused.map(|reason| (place.ifindex, reason)));
    }
    let setting = running.shortcut.allowed.setting;
    for (ifindex, reason) in &refusals {
        let name = places.iter().find(|place| place.ifindex == *ifindex);
        let name = name.map_or("", |place| place.name.as_str());
        if running.shortcut.refusals.get(ifindex) == Some(reason) {
            continue;
        }
        let text = format!("no native XDP at `{name}`, where packets go by TC alone: {reason}");
        match setting {
            XdpSetting::On => log::warn!("{text}"),
            XdpSetting::Auto => log::info!("{text}"),
            XdpSetting::Off => {}
        }
    }
    running.shortcut.refusals = refusals;
}

async fn attach(
    running: &mut Running,
    place: &XdpPlace,
    level: log::Level,
) -> Result<(), DatapathError> {
    let at = running.shortcut.hooks.iter().position(|hook| hook.spec.ifindex == place.ifindex);
    if let Some(hook) = at.and_then(|at| running.shortcut.hooks.get_mut(at)) {
        // A renamed interface keeps its program.
        hook.spec.interface.clone_from(&place.name);
        if hook.spec.program == place.program && !hook.is_inherited && !hook.is_lost {
            return Ok(());
        }
    }
    let spec = HookSpec {
        ifindex: place.ifindex,
        interface: place.name.clone(),
        direction: Direction::Xdp,
        program: place.program,
    };
    let attachment = Attachment {
        mode: running.attach,
        pins: &running.pins,
        filter: &running.instance.filter(),
        journal: &mut running.journal,
    };
    match running.datapath.attach(spec, attachment).await {
        Ok(hook) => {
            match at.and_then(|at| running.shortcut.hooks.get_mut(at)) {
                Some(former) => *former = hook,
                None => running.shortcut.hooks.push(hook),
            }
            log::log!(level, "XDP is on at `{}`", place.name);
            pause(&format!("attached-{}-{}", place.program, place.name)).await;
            Ok(())
        }
        Err(error) => {
            if let Some(at) = at {
                // Whatever is at its pin is of no use.
                let former = running.shortcut.hooks.swap_remove(at);
                let _ = former.detach().await;
            }
            Err(error)
        }
    }
}
