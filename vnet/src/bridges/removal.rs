//! Removing what we have made, and nothing else.

use super::{
    Owner, Step,
    plan::{is_bridge, wanted},
};
use crate::{
    definition::Network,
    host::{Link, NetlinkError, Snapshot, bridge},
    instance::Undo,
};

/// Which bridges of ours are not wanted any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// What removes those that nobody is on.
    pub steps: Vec<Step>,
    /// Those that stay.
    pub kept: Vec<Kept>,
}

/// A bridge of ours that is not wanted and stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "bridge `{bridge}` stays, because there is somebody on it ({}): `ip link delete {bridge}` once \
     that has gone",
    ports.join(", ")
)]
pub struct Kept {
    /// Its name.
    pub bridge: String,
    /// The names of its ports.
    pub ports: Vec<String>,
}

/// What became of a bridge that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Yes,
    /// There is none, or it is somebody else's.
    NotOurs,
    /// Somebody is on it.
    Kept(Kept),
}

/// Which of the bridges that this owner has made no definition wants. Without definitions: all.
#[must_use]
pub fn plan_removal(definitions: &[Network], host: &Snapshot, owner: &Owner) -> Removal {
    let wanted: Vec<_> = definitions.iter().filter_map(|network| wanted(network, owner)).collect();
    let mut removal = Removal::default();
    for link in ours(host, owner) {
        let is_wanted = wanted
            .iter()
            .any(|bridge| bridge.name == link.name && Some(&bridge.alias) == link.alias.as_ref());
        if is_wanted {
            continue;
        }
        let ports: Vec<String> = host.ports_of(link.index).map(|port| port.name.clone()).collect();
        if ports.is_empty() {
            removal.steps.push(Step::Remove { bridge: link.name.clone(), index: link.index });
        } else {
            removal.kept.push(Kept { bridge: link.name.clone(), ports });
        }
    }
    removal
}

/// The bridges of an owner that are there, for the journal of a daemon that takes them over.
#[must_use]
pub fn of_owner(host: &Snapshot, owner: &Owner) -> Vec<Undo> {
    let undo = |link: &Link| {
        let (mac, alias) = (link.mac?, link.alias.clone()?);
        Some(Undo::Bridge { name: link.name.clone(), mac, alias })
    };
    ours(host, owner).filter_map(undo).collect()
}

fn ours<'a>(host: &'a Snapshot, owner: &'a Owner) -> impl Iterator<Item = &'a Link> {
    host.links.iter().filter(|link| is_bridge(link) && owner.is_of(link.alias.as_deref()))
}

/// Removes a bridge that we have made, perhaps only by half, unless somebody is on it.
pub async fn remove_if_unused(
    name: &str,
    mac: [u8; 6],
    alias: &str,
) -> Result<Removed, NetlinkError> {
    let bridges = bridge::list().await?;
    let Some(link) = bridges.iter().find(|link| link.name == name) else {
        return Ok(Removed::NotOurs);
    };
    let is_ours = match &link.alias {
        Some(other) => other == alias,
        // Whoever made it came no further.
        None => link.mac == Some(mac),
    };
    if !is_ours {
        return Ok(Removed::NotOurs);
    }
    let ports = bridge::ports(link.index).await?;
    if !ports.is_empty() {
        let ports = ports.into_iter().map(|port| port.name).collect();
        return Ok(Removed::Kept(Kept { bridge: name.to_owned(), ports }));
    }
    let deleted = bridge::delete(link.index).await?;
    Ok(if deleted { Removed::Yes } else { Removed::NotOurs })
}
