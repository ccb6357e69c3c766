//! Taking back what a journal names.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use nix::net::if_::if_nametoindex;

use super::{
    Journal, Lock, Name, ProcessId, Undo,
    journal::{self, Entries, Owner},
    namespace,
};
use crate::{
    bridges::{self, Removed},
    datapath,
    host::{
        NetlinkError,
        bpffs::{self, BpfFs},
        bridge_port::{self, PortVlan},
        qdisc,
        sysctl::{self, SysctlError},
    },
    notify,
    services::{Supervisor, dnsmasq::Directories},
};

/// Whose journal is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// That of a process.
    Process(ProcessId),
    /// Any.
    Anybodys,
}

/// What could not be taken back.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Changes that are still there; the journal stays.
    pub failures: Vec<String>,
    /// What trying again does not help against; the journal is gone.
    pub damage: Vec<String>,
}

impl Outcome {
    /// Whether the host is as it was.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.damage.is_empty()
    }

    /// Everything that was not taken back.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.failures.iter().chain(&self.damage).map(String::as_str)
    }
}

/// The instance's journal is of another network namespace, which is still there.
#[derive(Debug, thiserror::Error)]
#[error(
    "instance `{instance}` was started in another network namespace and left its programs there: \
     take them off with `nsenter --net={path} vnet detach --instance {instance}`, or start this \
     one with `--instance OTHER`"
)]
pub struct Elsewhere {
    instance: String,
    path: String,
}

/// Where the changes of a journal are.
enum Place {
    Here,
    Elsewhere(PathBuf),
    /// In a network namespace that went, with all that was changed in it.
    Gone,
}

impl Place {
    fn of(owner: Option<&Owner>) -> Self {
        match (owner, namespace::current()) {
            (Some(owner), Ok(current)) if owner.namespace != current => {
                namespace::find(owner.namespace).map_or(Self::Gone, Self::Elsewhere)
            }
            _ => Self::Here,
        }
    }
}

/// Checks that what an instance left is not in another network namespace.
pub fn check_namespace(name: &Name) -> Result<(), Elsewhere> {
    // A journal that cannot be read is told of when it is to be taken back.
    let owner = journal::read(name).unwrap_or_default().owner;
    match Place::of(owner.as_ref()) {
        Place::Elsewhere(path) => {
            Err(Elsewhere { instance: name.to_string(), path: path.display().to_string() })
        }
        Place::Here | Place::Gone => Ok(()),
    }
}

/// Takes every change back, the last one first, and goes on after a failure. An instance that left
/// nothing is fine. The lock's file stays.
pub async fn undo(lock: &Lock, whose: Whose) -> Outcome {
    let mut outcome = Outcome::default();
    let file = journal::file_of(lock.name());
    let Entries { owner, undos, damaged } = match journal::read(lock.name()) {
        Ok(entries) => entries,
        Err(error) => {
            outcome.failures.push(format!("cannot read {}: {error}", file.display()));
            return outcome;
        }
    };
    let process = owner.as_ref().map(|owner| owner.process);
    if matches!(whose, Whose::Process(wanted) if process != Some(wanted)) {
        return outcome;
    }
    if let Err(elsewhere) = check_namespace(lock.name()) {
        outcome.failures.push(elsewhere.to_string());
        return outcome;
    }
    for line in damaged {
        outcome.damage.push(format!(
            "{}: line {line} is damaged: look for a change of vnet that is left, such as \
             net.ipv4.ip_forward or a clsact qdisc",
            file.display()
        ));
    }
    if !outcome.damage.is_empty()
        && let Ok(Some(bpffs)) = bpffs::find()
    {
        // Their place is known without the journal.
        let pins = lock.name().pin_directory(&bpffs);
        outcome.failures.extend(remove_pins(&pins).err());
    }
    let namespace_is_gone = matches!(Place::of(owner.as_ref()), Place::Gone);
    for undo in in_order(&undos) {
        if namespace_is_gone && !outlives_namespace(undo) {
            continue;
        }
        if let Err(failure) = take_back(undo).await {
            outcome.failures.push(failure);
        }
    }
    if outcome.failures.is_empty()
        && let Err(error) = journal::forget(lock.name())
    {
        outcome.failures.push(format!("cannot remove {}: {error}", file.display()));
    }
    outcome
}

/// Takes changes back that the rest can go without, and forgets them. Returns what failed.
pub async fn retract(journal: &mut Journal, unwanted: &[Undo]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut done = BTreeSet::new();
    for undo in in_order(unwanted) {
        match take_back(undo).await {
            Ok(()) => drop(done.insert(undo)),
            Err(failure) => failures.push(failure),
        }
    }
    if let Err(error) = journal.forget(|undo| done.contains(undo)) {
        failures.push(error.to_string());
    }
    failures
}

/// The last change first. A qdisc goes after the filters in it, whichever was written down first.
fn in_order(undos: &[Undo]) -> impl Iterator<Item = &Undo> {
    let (qdiscs, rest): (Vec<_>, Vec<_>) =
        undos.iter().rev().partition(|undo| matches!(undo, Undo::Clsact { .. }));
    rest.into_iter().chain(qdiscs)
}

fn outlives_namespace(undo: &Undo) -> bool {
    matches!(undo, Undo::Pins { .. } | Undo::Mount { .. } | Undo::Services { .. })
}

async fn take_back(undo: &Undo) -> Result<(), String> {
    notify::progress();
    match undo {
        Undo::Sysctl { name, former, given } => {
            restore(name, former, given).map_err(|error| error.to_string())
        }
        Undo::Forwarding { conf, default, interfaces } => {
            give_forwarding_back(conf, default, interfaces).map_err(|error| error.to_string())
        }
        Undo::Route(route) => route.delete().await.map(drop).map_err(|error| error.to_string()),
        Undo::IsolatedPort { interface } => {
            let reset = bridge_port::set_isolated(*interface, false).await;
            reset.map(drop).map_err(|error| error.to_string())
        }
        Undo::PortVlans { interface, given, former } => {
            let done = give_vlan_back(*interface, given, *former).await;
            done.map_err(|error| error.to_string())
        }
        Undo::Bridge { name, mac, alias } => {
            let removed = bridges::remove_if_unused(name, *mac, alias).await;
            if let Removed::Kept(kept) = removed.map_err(|error| error.to_string())? {
                log::warn!("{kept}");
            }
            Ok(())
        }
        Undo::Services { runtime } => end_services(runtime).await,
        Undo::Mount { path } => {
            let mounted = BpfFs { path: path.clone(), mounted_here: true };
            mounted.release().map(|_| ()).map_err(|error| error.to_string())
        }
        Undo::Pins { path } => remove_pins(path),
        Undo::Filters { interface, name } => {
            for direction in [qdisc::Direction::Egress, qdisc::Direction::Ingress] {
                let deleted = qdisc::delete_bpf_filters_named(*interface, direction, name).await;
                absent_interface_is_fine(deleted.map(|_| ()))?;
            }
            Ok(())
        }
        Undo::Clsact { interface } => absent_interface_is_fine(delete_unused(*interface).await),
    }
}

async fn end_services(runtime: &Path) -> Result<(), String> {
    let directories = Directories::of_runtime(runtime);
    let changes = Supervisor::new(directories).stop().await;
    let failed: Vec<_> =
        changes.iter().filter(|it| it.what.is_bad()).map(ToString::to_string).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// VLANs that somebody else has given the port stay.
async fn give_vlan_back(
    port: u32,
    given: &[PortVlan],
    former: Option<PortVlan>,
) -> Result<(), NetlinkError> {
    let all = bridge_port::vlans().await?;
    let Some((_, current)) = all.iter().find(|(index, _)| *index == port) else { return Ok(()) };
    let ours: Vec<_> = current.iter().copied().filter(|vlan| given.contains(vlan)).collect();
    if ours.is_empty() {
        return Ok(());
    }
    bridge_port::delete_vlans(port, &ours).await?;
    match former {
        Some(former) => bridge_port::add_vlans(port, &[former]).await.map(drop),
        None => Ok(()),
    }
}

/// An interface that somebody has made a router's meanwhile stays one.
fn give_forwarding_back(
    conf: &str,
    default: &str,
    interfaces: &[(u32, String)],
) -> Result<(), SysctlError> {
    for name in sysctl::list(conf)? {
        // By index, because interfaces are renamed, and made anew under the same name.
        let index = if_nametoindex(name.as_str());
        let had = interfaces.iter().find(|(other, _)| index == Ok(*other));
        let former = had.map_or(default, |(_, former)| former);
        if name != "all" && former != OFF {
            restore(&format!("{conf}/{name}/forwarding"), former, OFF)?;
        }
    }
    Ok(())
}

/// What `forwarding` of every interface is once that of all has been turned off.
const OFF: &str = "0";

/// A parameter of an interface goes with the interface.
fn restore(name: &str, former: &str, given: &str) -> Result<(), SysctlError> {
    let absent = |error: &SysctlError| match error {
        SysctlError::Read { source, .. } | SysctlError::Write { source, .. } => {
            source.kind() == io::ErrorKind::NotFound
        }
        SysctlError::Unexpected { .. } => false,
    };
    let restored = sysctl::read(name)
        .and_then(|current| if current == given { sysctl::write(name, former) } else { Ok(()) });
    restored.or_else(|error| if absent(&error) { Ok(()) } else { Err(error) })
}

async fn delete_unused(interface: u32) -> Result<(), qdisc::QdiscError> {
    for direction in [qdisc::Direction::Egress, qdisc::Direction::Ingress] {
        if !qdisc::filter_priorities(interface, direction).await?.is_empty() {
            return Ok(());
        }
    }
    qdisc::delete_clsact(interface).await.map(|_| ())
}

fn absent_interface_is_fine(result: Result<(), qdisc::QdiscError>) -> Result<(), String> {
    match result {
        Ok(()) | Err(qdisc::QdiscError::NoInterface { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn remove_pins(path: &Path) -> Result<(), String> {
    for pin in datapath::link_pins(path) {
        notify::progress();
        // What cannot be removed is told of below.
        let _ = datapath::release_link(&pin);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("cannot remove the pins below {}: {error}", path.display()));
        }
        _ => {}
    }
    // The last instance takes the common directory along.
    let _ = path.parent().map(fs::remove_dir);
    Ok(())
}
