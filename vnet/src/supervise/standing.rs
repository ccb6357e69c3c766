//! What an earlier process of the instance has left in place.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use vnet_common::names::{self, program};

use super::Options;
use crate::{
    datapath::{self, AttachMode, Direction, Hook, HookSpec, Mechanism},
    instance::{Name, State, Told, Undo, journal, state::HookState},
    plan::{Plan, PlannedPort, Slots},
};

/// What is in place.
pub(super) enum Standing {
    /// Nothing.
    Nothing,
    /// Something that this process cannot go on with, and why.
    Unfit(String),
    /// Programs and maps that this process can take over.
    Fit(Box<Former>),
}

/// A datapath that was left in place.
pub(super) struct Former {
    /// The instance's directory of pins.
    pub pins: PathBuf,
    /// The limit that its maps were made for.
    pub flow_limit: u32,
    /// How its programs are attached.
    pub mechanism: Mechanism,
    /// What it runs, as far as the last process came to write it down.
    pub state: State,
    /// What it was told.
    pub told: Option<Told>,
    /// Interfaces with filters of its.
    filters: Vec<u32>,
}

impl Standing {
    /// Looks at what is there and changes nothing.
    pub fn examine(options: &Options) -> Self {
        if !journal::exists(&options.instance) {
            return Self::Nothing;
        }
        match Former::find(options) {
            Ok(former) => Self::Fit(Box::new(former)),
            Err(reason) => Self::Unfit(reason),
        }
    }

    pub const fn is_taken_over(&self) -> bool {
        matches!(self, Self::Fit(_))
    }

    pub fn former(&self) -> Option<&Former> {
        match self {
            Self::Fit(former) => Some(former),
            Self::Nothing | Self::Unfit(_) => None,
        }
    }
}

impl Former {
    fn find(options: &Options) -> Result<Self, String> {
        let name = &options.instance;
        let undos = journal::intact_entries(name)?;
        let pins = undos.iter().find_map(|undo| match undo {
            Undo::Pins { path } => Some(path.clone()),
            _ => None,
        });
        let pins = pins.ok_or("it was killed before its start had ended")?;
        let state = State::read(name).map_err(|error| format!("its state is damaged: {error}"))?;
        let state = state.ok_or("it was killed before its start had ended")?;
        if state.layout != names::LAYOUT {
            return Err(format!("version {} has tables of another layout", state.version));
        }
        let flow_limit = datapath::flow_limit_of(&pins.join("maps"))?;
        if let Some(wanted) = options.flow_limit.filter(|wanted| *wanted != flow_limit) {
            return Err(format!("it has room for {flow_limit} flows, not {wanted}"));
        }
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
            return Err(format!("it is attached by {}", mechanism.name()));
        }
        let told = Told::read(name).ok().flatten();
        Ok(Self { pins, flow_limit, mechanism, state, told, filters })
    }

    /// How programs have to be attached to replace those that are there.
    pub const fn attach_mode(&self) -> AttachMode {
        match self.mechanism {
            Mechanism::Tcx => AttachMode::Tcx,
            Mechanism::Clsact => AttachMode::Clsact,
        }
    }

    pub fn slots(&self) -> Slots {
        slots_of(&self.state)
    }

    /// The hooks where programs are, also those that a process has attached just before its death.
    pub fn hooks(&self, name: &Name) -> Vec<Hook> {
        let places: Vec<(u32, Direction)> = match self.mechanism {
            Mechanism::Tcx => datapath::pinned_links(&self.pins),
            Mechanism::Clsact => self
                .filters
                .iter()
                .flat_map(|interface| {
                    [Direction::Egress, Direction::Ingress].map(|direction| (*interface, direction))
                })
                .collect(),
        };
        let known: HashMap<_, _> = self
            .state
            .hooks
            .iter()
            .map(|hook| ((hook.ifindex, hook.direction.as_str()), hook))
            .collect();
        let hook = |(ifindex, direction): (u32, Direction)| {
            let spec = spec(known.get(&(ifindex, direction.name())).copied(), ifindex, direction);
            Hook::inherited(spec, self.mechanism, &self.pins, &name.filter())
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

/// The slots that networks have.
pub(super) fn slots_of(state: &State) -> Slots {
    Slots::of(state.networks.iter().map(|network| (network.name.as_str(), network.slot)))
}

/// Where the maps are pinned.
pub(super) fn maps_of(pins: &Path) -> PathBuf {
    pins.join("maps")
}
