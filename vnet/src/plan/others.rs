//! What others do with the packets of interfaces that short ways would pass by.

use std::collections::BTreeMap;

use super::{Plan, shortcut::slaves};
use crate::host::{Link, Snapshot};

/// What others have at an interface; each as a few words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// Sees what comes in before vnet's own program does.
    pub before: Option<String>,
    /// Sees what comes in and vnet's own program passes on; what there is at all, where vnet has no program.
    pub after: Option<String>,
    /// Sees what goes out: filters, or a qdisc that shapes.
    pub out: Option<String>,
}

impl Others {
    /// Something that sees what comes in.
    #[must_use]
    pub fn inbound(&self) -> Option<&str> {
        self.before.as_deref().or(self.after.as_deref())
    }
}

/// The interfaces whose packets may take short ways, and their names.
#[must_use]
pub fn on_the_way(plan: &Plan, host: &Snapshot) -> BTreeMap<u32, String> {
    let mut all = BTreeMap::new();
    let mut add = |link: &Link| {
        // Packets meet what is at a bond's slaves, too.
        let slaves = slaves(link, host);
        all.extend(slaves.chain([link]).map(|link| (link.index, link.name.clone())));
    };
    for network in &plan.networks {
        let Some(bridge) = network.bridge_ifindex.and_then(|index| host.link(index)) else {
            continue;
        };
        add(bridge);
        host.ports_of(bridge.index).for_each(&mut add);
    }
    let uplinks = plan.uplinks.iter().filter_map(|uplink| host.link(uplink.ifindex));
    uplinks.for_each(&mut add);
    all
}
