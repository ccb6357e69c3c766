//! What of the host, beside its links, decides about short ways.

use std::collections::{BTreeMap, BTreeSet};

use super::startup::Running;
use crate::{
    datapath::{Direction, Hook, Mechanism, programs_at},
    host::{
        NetlinkError, bridge_rules,
        traffic_control::{self, Control},
    },
    plan::{Others, Surfaces},
};

/// Reads all but what XDP the devices can do. What is not known is taken for a reason.
pub(super) async fn read(running: &Running, interfaces: &BTreeMap<u32, String>) -> Surfaces {
    let mut surfaces = Surfaces::default();
    match bridge_rules::read().await {
        Ok(rules) => surfaces.rules = rules,
        Err(error) => surfaces.rules.of_all = Some(unread("rules for bridges", &error)),
    }
    match traffic_control::read(interfaces, &running.instance.filter()).await {
        Ok(controls) => surfaces.others = others(running, interfaces, controls),
        // One reason is enough.
        Err(error) => {
            let reason = || unread("others' traffic control", &error);
            surfaces.rules.of_all.get_or_insert_with(reason);
        }
    }
    surfaces
}

fn unread(what: &str, error: &NetlinkError) -> String {
    format!("{what} cannot be read: {error}")
}

fn others(
    running: &Running,
    interfaces: &BTreeMap<u32, String>,
    mut controls: BTreeMap<u32, Control>,
) -> BTreeMap<u32, Others> {
    let own: BTreeSet<u32> = running.hooks.iter().map(|hook| hook.program_id).collect();
    let mut all = BTreeMap::new();
    for interface in interfaces.keys() {
        let Control { filter_in, chain_in, out } = controls.remove(interface).unwrap_or_default();
        let (before, after) = programs(*interface, Direction::Ingress, &own);
        let is_filter =
            |hook: &Hook| hook.spec.ifindex == *interface && hook.mechanism == Mechanism::Clsact;
        let has_filters = running.hooks.iter().any(is_filter);
        let others = Others {
            // Filters come after tcx, among each other by their priority.
            before: before.or_else(|| filter_in.clone().filter(|_| has_filters)),
            after: after.or(filter_in).or(chain_in),
            out: out.or_else(|| {
                let (before, after) = programs(*interface, Direction::Egress, &own);
                before.or(after)
            }),
        };
        if others != Others::default() {
            all.insert(*interface, others);
        }
    }
    all
}

/// Programs of others at a tcx hook: before ours, and after it. Kernels without tcx have none.
fn programs(
    interface: u32,
    direction: Direction,
    own: &BTreeSet<u32>,
) -> (Option<String>, Option<String>) {
    let programs = match programs_at(interface, direction) {
        Ok(programs) => programs,
        // No tcx, or no such interface any more.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {
            Vec::new()
        }
        Err(error) => {
            let unknown = Some(format!("BPF programs that cannot be listed: {error}"));
            return (unknown.clone(), unknown);
        }
    };
    let ours = programs.iter().position(|program| own.contains(program)).unwrap_or(0);
    let foreign = |programs: &[u32]| {
        let program = programs.iter().find(|program| !own.contains(program))?;
        Some(format!("the BPF program {program}"))
    };
    let (before, after) = programs.split_at(ours);
    (foreign(before), foreign(after))
}
