//! What an earlier process of the instance has left in place.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use vnet_common::{former, names::program};

use super::Options;
use crate::{
    datapath::{
        self, AttachMode, DatapathError, Direction, FormerProgram, Hook, HookSpec, Mechanism,
    },
    instance::{Name, State, Told, Undo, journal, state::HookState},
    object,
    plan::{Plan, PlannedPort, Slots},
};

/// What is in place.
pub(super) enum Standing {
    /// Nothing.
    Nothing,
    /// Something that this process cannot go on with, and why.
    Unfit(String),
    /// Something whose flows this process would end without need, and why.
    Refused(String),
    /// Programs and maps that this process can take over.
    Fit(Box<Former>),
}

/// A datapath that was left in place.
pub(super) struct Former {
    /// The instance's directory of pins.
    pub pins: PathBuf,
    /// The limit that its maps were made for, or are after a migration.
    pub flow_limit: u32,
    /// How its flows come to maps of this version and of the size that is wanted; `None` if they are there.
    pub migration: Option<Wanted>,
    /// How its programs are attached.
    pub mechanism: Mechanism,
    /// What it runs, as far as the last process came to write it down.
    pub state: State,
    /// What it was told.
    pub told: Option<Told>,
    /// Interfaces with filters of its.
    filters: Vec<u32>,
}

/// A migration that is needed.
pub(super) struct Wanted {
    pub reason: String,
    /// The layout of the maps that flows are in.
    pub layout: u32,
    pub programs: Vec<FormerProgram>,
}

/// Why a datapath is not gone on with.
enum Unusable {
    Unfit(String),
    Refused(String),
}

impl<T: Into<String>> From<T> for Unusable {
    fn from(reason: T) -> Self {
        Self::Unfit(reason.into())
    }
}

impl Standing {
    /// Looks at what is there and changes nothing.
    pub fn examine(options: &Options) -> Self {
        if !journal::exists(&options.instance) {
            return Self::Nothing;
        }
        match Former::find(options) {
            Ok(former) => Self::Fit(Box::new(former)),
            Err(Unusable::Unfit(reason)) => Self::Unfit(reason),
            Err(Unusable::Refused(reason)) => Self::Refused(reason),
        }
    }

    pub const fn is_taken_over(&self) -> bool {
        matches!(self, Self::Fit(_))
    }

    pub fn former(&self) -> Option<&Former> {
        match self {
            Self::Fit(former) => Some(former),
            Self::Nothing | Self::Unfit(_) | Self::Refused(_) => None,
        }
    }
}

impl Former {
    fn find(options: &Options) -> Result<Self, Unusable> {
        let name = &options.instance;
        let undos = journal::intact_entries(name)?;
        let pins = undos.iter().find_map(|undo| match undo {
            Undo::Pins { path } => Some(path.clone()),
            _ => None,
        });
        let pins = pins.ok_or("it was killed before its start had ended")?;
        let state = State::read(name).map_err(|error| format!("its state is damaged: {error}"))?;
        let state = state.ok_or("it was killed before its start had ended")?;
        let (flow_limit, migration) = migration(options, &pins, &state)?;
        let filters: Vec<u32> = undos
            .iter()
            .filter_map(|undo| match undo {
                Undo::Filters { interface, .. } => Some(*interface),
                _ => None,
            })
            .collect();
        let mechanism = if filters.is_empty() { Mechanism::Tcx } else { Mechanism::Clsact };
        let fits = match options.attach {
            AttachMode::Auto => true,
            AttachMode::Tcx => mechanism == Mechanism::Tcx,
            AttachMode::Clsact => mechanism == Mechanism::Clsact,
        };
        if !fits {
            return Err(format!("it is attached by {}", mechanism.name()).into());
        }
        let told = Told::read(name).ok().flatten();
        Ok(Self { pins, flow_limit, migration, mechanism, state, told, filters })
    }

    /// How programs have to be attached to replace those that are there.
    pub const fn attach_mode(&self) -> AttachMode {
        match self.mechanism {
            Mechanism::Clsact => AttachMode::Clsact,
            Mechanism::Tcx | Mechanism::Xdp => AttachMode::Tcx,
        }
    }

    pub fn slots(&self) -> Slots {
        slots_of(&self.state)
    }

    /// The hooks where programs are, also those that a process has attached just before its death.
    pub fn hooks(&self, name: &Name) -> Vec<Hook> {
        let mut places = datapath::pinned_links(&self.pins);
        if self.mechanism == Mechanism::Clsact {
            places.retain(|(_, direction)| *direction == Direction::Xdp);
            places.extend(self.filters.iter().flat_map(|interface| {
                [Direction::Egress, Direction::Ingress].map(|direction| (*interface, direction))
            }));
        }
        let known: HashMap<_, _> = self
            .state
            .hooks
            .iter()
            .map(|hook| ((hook.ifindex, hook.direction.as_str()), hook))
            .collect();
        let hook = |(ifindex, direction): (u32, Direction)| {
            let spec = spec(known.get(&(ifindex, direction.name())).copied(), ifindex, direction);
            let mechanism = match direction {
                Direction::Xdp => Mechanism::Xdp,
                Direction::Ingress | Direction::Egress => self.mechanism,
            };
            Hook::inherited(spec, mechanism, &self.pins, &name.filter())
        };
        places.into_iter().map(hook).collect()
    }

    /// What of the last process's plan matters for the next one: whose addresses are whose.
    pub fn plan(&self) -> Plan {
        let port = |guest: &crate::instance::state::GuestState| PlannedPort {
            ifindex: guest.ifindex,
            name: guest.interface.clone(),
            network: guest.network,
            mac: guest.mac,
            addresses: guest.addresses.clone(),
            guard: None,
            isolated: false,
            vlans: Vec::new(),
        };
        Plan { ports: self.state.guests.iter().map(port).collect(), ..Plan::empty() }
    }

    pub fn maps(&self) -> PathBuf {
        maps_of(&self.pins)
    }
}

/// A hook of which something may be written down.
fn spec(known: Option<&HookState>, ifindex: u32, direction: Direction) -> HookSpec {
    let program =
        known.and_then(|hook| program::ALL.into_iter().find(|program| *program == hook.program));
    HookSpec {
        ifindex,
        interface: known.map_or_else(|| format!("#{ifindex}"), |hook| hook.interface.clone()),
        direction,
        program: program.unwrap_or("unknown"),
    }
}

/// The limit of flows to go on with, and how they come to maps of this version that have it.
fn migration(
    options: &Options,
    pins: &Path,
    state: &State,
) -> Result<(u32, Option<Wanted>), Unusable> {
    let ours = object::layout();
    let unknown = |error: DatapathError| {
        Unusable::Refused(format!("instance `{}` may be migrating: {error}", state.instance))
    };
    let maps = datapath::present_maps(pins).map_err(unknown)?;
    let layout = datapath::layout_of(&maps).unwrap_or(state.layout);
    if layout > ours {
        return Err(Unusable::Refused(format!(
            "instance `{}` runs vnet {}, whose tables (layout {layout}) this older version does not know \
             (layout {ours}): start that version again, or end all flows with `vnet detach --instance {}`",
            state.instance, state.version, state.instance
        )));
    }
    if layout < former::OLDEST {
        return Err(format!("version {} has tables of layout {layout}", state.version).into());
    }
    let flow_limit = datapath::flow_limit_of(&maps, layout)?;
    let programs = || {
        let wanted: Vec<_> = state.hooks.iter().map(|hook| hook.program.as_str()).collect();
        datapath::programs_of(pins, &maps, &wanted).map_err(|reason| {
            Unusable::Refused(format!(
                "instance `{}` has flows that cannot be migrated, because {reason}: run `vnet apply` as \
                 root once, or end all flows with `vnet detach --instance {}`",
                state.instance, state.instance
            ))
        })
    };
    if datapath::is_migrating(pins).map_err(unknown)? {
        if layout != ours {
            return Err(format!("a migration to layout {layout} has not ended").into());
        }
        let layout = datapath::layout_of(&maps_of(pins)).unwrap_or(state.layout);
        let reason = "an earlier start has not ended".to_owned();
        // The former programs are where that one has put them.
        return Ok((flow_limit, Some(Wanted { reason, layout, programs: Vec::new() })));
    }
    let wanted = options.flow_limit.unwrap_or(flow_limit);
    let reason = if layout != ours {
        format!("version {} has tables of another layout", state.version)
    } else if wanted != flow_limit {
        format!("there is room for {flow_limit} flows, not {wanted}")
    } else {
        return Ok((flow_limit, None));
    };
    let open = datapath::open_flows(&maps)?;
    if open > wanted {
        return Err(Unusable::Refused(format!(
            "instance `{}` has {open} open flows, more than `--max-flows {wanted}` has room for",
            state.instance
        )));
    }
    Ok((wanted, Some(Wanted { reason, layout, programs: programs()? })))
}

/// The slots that networks have.
pub(super) fn slots_of(state: &State) -> Slots {
    Slots::of(state.networks.iter().map(|network| (network.name.as_str(), network.slot)))
}

/// Where the maps are pinned.
pub(super) fn maps_of(pins: &Path) -> PathBuf {
    pins.join("maps")
}
