//! The short ways: XDP where there is any, and what bridges know of stations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use vnet_common::shortcut::XdpMode;

use super::{
    neighbourhood::{self, Neighbourhood},
    pause::pause,
    startup::Running,
    state, surfaces,
};
use crate::{
    datapath::{Attachment, Datapath, DatapathError, Direction, Hook, HookSpec, XDP_IS_TAKEN},
    host::{Snapshot, ethtool, xdp},
    instance::state::{ShortcutState, XdpState},
    notify,
    plan::{
        self, Plan, ShortcutTables, Shortcuts, Surfaces, VlanOffloads, XdpPlace, XdpSetting,
        devices_for_xdp,
    },
};

/// What is known of the short ways.
pub(super) struct Shortcut {
    /// XDP programs that are attached.
    pub hooks: Vec<Hook>,
    pub allowed: Allowed,
    /// Why devices have no XDP, as it was said.
    refusals: BTreeMap<u32, Refusal>,
    pub neighbourhood: Neighbourhood,
}

/// Why a device has no XDP.
struct Refusal {
    reason: String,
    /// Until when it is not asked again: a driver may stop its queues for each attempt.
    rests_until: Option<Instant>,
    /// The devices whose other program is in the way.
    taken: Vec<u32>,
}

impl Refusal {
    /// One that the plan knows of.
    const fn planned(reason: String) -> Self {
        Self { reason, rests_until: None, taken: Vec::new() }
    }

    /// What a device said when it was given the program.
    async fn of(error: DatapathError, place: &XdpPlace) -> Self {
        const REST: Duration = Duration::from_secs(60);
        let reason = match error {
            DatapathError::Attach { reason, .. } => reason,
            error => error.to_string(),
        };
        if reason == XDP_IS_TAKEN {
            return Self { reason, rests_until: None, taken: vec![place.ifindex] };
        }
        // A bond says the same of slaves whose driver has none (`bond_xdp_set`).
        for (slave, name) in &place.slaves {
            if !xdp::is_absent(*slave).await.unwrap_or(true) {
                let reason = format!("its slave `{name}`: {XDP_IS_TAKEN}");
                return Self { reason, rests_until: None, taken: vec![*slave] };
            }
        }
        Self { reason, rests_until: Some(Instant::now() + REST), taken: Vec::new() }
    }

    fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| until > Instant::now())
    }
}

/// What the settings and the host allow.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowed {
    pub is_on: bool,
    pub ways: Shortcuts,
    setting: XdpSetting,
    /// Interfaces that packets may pass by, and their names.
    pub on_the_way: BTreeMap<u32, String>,
    pub surfaces: Surfaces,
    /// Next hops by whose link-layer addresses flows may go.
    pub gateways: BTreeSet<IpAddr>,
}

impl Shortcut {
    /// With the XDP programs of an earlier process, and the stations that it has entered.
    pub fn begin(hooks: Vec<Hook>, datapath: &mut Datapath) -> anyhow::Result<Self> {
        Ok(Self {
            hooks,
            allowed: Allowed::default(),
            refusals: BTreeMap::new(),
            neighbourhood: Neighbourhood::begin(datapath)?,
        })
    }

    /// What other processes are told.
    pub fn state(&self) -> ShortcutState {
        let xdp = self.allowed.ways.xdp.iter().map(|place| {
            let hook = self.hooks.iter().find(|hook| hook.spec.ifindex == place.ifindex);
            let refused = self.refusals.get(&place.ifindex).map(|refused| &refused.reason);
            let refusal = place.refusal.as_ref().or(refused);
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
    let (mut on_the_way, mut surfaces) = (BTreeMap::new(), Surfaces::default());
    if plan.short_ways {
        on_the_way = plan::on_the_way(plan, host);
        surfaces = surfaces::read(running, &on_the_way).await;
        // Before it is asked, so that no change is lost.
        running.shortcut.neighbourhood.features.listen().await;
        let features = xdp::features().await.inspect_err(|error| log::debug!("{error}"));
        // Where the kernel does not answer, nobody is known to take frames.
        surfaces.xdp = features.unwrap_or_else(|_| Some(BTreeMap::new()));
        let devices = devices_for_xdp(plan, host);
        surfaces.vlan = vlan_offloads(devices.iter().map(|link| link.index).collect()).await;
    }
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
        log::warn!("`--xdp on` does nothing with `--short-ways off`");
    }
    let hops = host.routes.iter().flat_map(|route| &route.hops);
    running.shortcut.allowed = Allowed {
        is_on: plan.short_ways,
        ways,
        setting,
        on_the_way,
        surfaces,
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
    let watched = if running.shortcut.allowed.is_on {
        neighbourhood::watch(running).await
    } else {
        neighbourhood::unwatch(running)
    };
    failures.extend(watched.err().map(|error| format!("{error:#}")));
    pause("stations").await;
    if running.shortcut.state() != before {
        failures.extend(state::write(running).err().map(|error| format!("{error:#}")));
    }
    failures
}

/// Lets the short ways hold on, while there are any: what is known of bridges is true as long as somebody follows
/// them.
pub(super) fn renew_lease(running: &mut Running) -> anyhow::Result<()> {
    /// Some rounds of the daemon.
    const LEASE: Duration = Duration::from_secs(15);
    if running.shortcut.neighbourhood.is_followed() {
        running.datapath.lease_short_ways(LEASE)?;
    }
    Ok(())
}

/// Whether something has changed that the kernel sends no notice of.
pub(super) async fn is_changed(running: &mut Running) -> bool {
    let mut is_changed = has_other_surfaces(running).await;
    for refusal in running.shortcut.refusals.values() {
        is_changed |= refusal.rests_until.is_some() && !refusal.rests();
        for device in &refusal.taken {
            is_changed |= xdp::is_absent(*device).await.unwrap_or(false);
        }
    }
    for hook in &mut running.shortcut.hooks {
        hook.is_lost = !hook.is_inherited && !hook.is_attached().await;
        is_changed |= hook.is_lost;
    }
    is_changed
}

/// What is not known is taken for the worst.
async fn vlan_offloads(devices: Vec<u32>) -> BTreeMap<u32, VlanOffloads> {
    ethtool::vlan_offloads(&devices).await.unwrap_or_else(|error| {
        log::debug!("{error}");
        devices.into_iter().map(|device| (device, VlanOffloads::UNTOLD)).collect()
    })
}

/// Whether others have begun or ceased to look at packets that pass by the bridges.
pub(super) async fn has_other_surfaces(running: &Running) -> bool {
    let allowed = &running.shortcut.allowed;
    if !allowed.is_on {
        return false;
    }
    let now = surfaces::read(running, &allowed.on_the_way).await;
    let before = &allowed.surfaces;
    (&now.rules, &now.others) != (&before.rules, &before.others)
        || vlan_offloads(before.vlan.keys().copied().collect()).await != before.vlan
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
    let mut before = std::mem::take(&mut running.shortcut.refusals);
    for place in &places {
        notify::progress();
        let former = before.remove(&place.ifindex);
        let said = former.as_ref().map(|former| former.reason.clone());
        let refusal = match (&place.refusal, former) {
            (Some(reason), _) => Refusal::planned(reason.clone()),
            (None, Some(former)) if former.rests() => former,
            (None, _) => match attach(running, place, level).await {
                Ok(()) => continue,
                Err(error) => Refusal::of(error, place).await,
            },
        };
        if said.as_ref() != Some(&refusal.reason) {
            say(place, &refusal.reason, running.shortcut.allowed.setting);
        }
        running.shortcut.refusals.insert(place.ifindex, refusal);
    }
}

fn say(place: &XdpPlace, reason: &str, setting: XdpSetting) {
    let name = &place.name;
    let text = format!("no native XDP at `{name}`, where packets go by TC alone: {reason}");
    match setting {
        XdpSetting::On => log::warn!("{text}"),
        XdpSetting::Auto => log::info!("{text}"),
        XdpSetting::Off => {}
    }
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
