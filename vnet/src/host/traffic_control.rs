//! What others do with the packets of interfaces, beside bridges and netfilter's hooks for IP packets:
//! queueing disciplines, filters, and nftables' chains at interfaces.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    netlink::{Connection, NetlinkError, Request, attributes, string, u32_at},
    nftables,
    qdisc::{
        BPF, BpfFilter, CLSACT, Direction, RTM_GETQDISC, RTM_GETTFILTER, RTM_NEWQDISC,
        RTM_NEWTFILTER, TCA_KIND, tcmsg,
    },
    snapshot::table,
};

/// The qdisc that has filters of what comes in, alone.
const INGRESS: &str = "ingress";
/// Qdiscs that the kernel gives interfaces of itself, and those that only hold filters: they neither drop nor delay
/// what a fast interface is sent.
const HARMLESS: [&str; 7] = ["noqueue", "pfifo_fast", "fq_codel", "fq", "mq", CLSACT, INGRESS];

/// What others have at an interface; each as a few words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    /// A filter of what comes in.
    pub filter_in: Option<String>,
    /// A chain of nftables for what comes in.
    pub chain_in: Option<String>,
    /// Whatever sees what goes out.
    pub out: Option<String>,
}

/// What others have at each of these interfaces, given with their names; `own` is the name of the filters that do
/// not count. tcx is not looked at.
pub async fn read(
    interfaces: &BTreeMap<u32, String>,
    own: &str,
) -> Result<BTreeMap<u32, Control>, NetlinkError> {
    let mut all: BTreeMap<u32, Control> = BTreeMap::new();
    let mut connection = Connection::open()?;
    let qdiscs = qdiscs(&mut connection, interfaces).await?;
    for (interface, kind) in &qdiscs {
        let control = all.entry(*interface).or_default();
        if !HARMLESS.contains(&kind.as_str()) {
            control.out = Some(format!("a qdisc `{kind}`"));
        }
        if kind == CLSACT || kind == INGRESS {
            let filter = foreign_filter(&mut connection, *interface, Direction::Ingress, own);
            control.filter_in = filter.await?;
        }
        if kind == CLSACT && control.out.is_none() {
            let filter = foreign_filter(&mut connection, *interface, Direction::Egress, own);
            control.out = filter.await?;
        }
    }
    for hook in nftables::device_hooks().await? {
        let chain = Some(format!("nftables (table {})", hook.table));
        for (interface, _) in interfaces.iter().filter(|(_, name)| hook.is_at(name)) {
            let control = all.entry(*interface).or_default();
            if hook.is_ingress {
                control.chain_in.clone_from(&chain);
            } else {
                control.out.clone_from(&chain);
            }
        }
    }
    Ok(all)
}

/// The qdiscs of these interfaces, by one request for those of the whole host.
async fn qdiscs(
    connection: &mut Connection,
    interfaces: &BTreeMap<u32, String>,
) -> Result<BTreeSet<(u32, String)>, NetlinkError> {
    let action = "list the qdiscs";
    let request =
        || Request { action, message_type: RTM_GETQDISC, flags: 0, body: tcmsg(0, 0, 0, 0) };
    let mut is_restless = false;
    let found = table(connection, &mut is_restless, request, |kind, body| {
        let interface = u32_at(body, 4).filter(|_| kind == RTM_NEWQDISC)?;
        interfaces.contains_key(&interface).then_some((interface, kind_of(body)?))
    })
    .await?;
    Ok(found.into_iter().collect())
}

fn kind_of(body: &[u8]) -> Option<String> {
    attributes(body.get(20..)?).find(|(kind, _)| *kind == TCA_KIND).map(|(_, kind)| string(kind))
}

/// What is said of a filter at a hook that is not ours.
async fn foreign_filter(
    connection: &mut Connection,
    interface: u32,
    direction: Direction,
    own: &str,
) -> Result<Option<String>, NetlinkError> {
    let body = tcmsg(interface, 0, direction.parent(), 0);
    let action = "list the filters";
    let request = Request { action, message_type: RTM_GETTFILTER, flags: 0, body };
    let mut found = None;
    let listed = connection
        .dump(request, |kind, body| {
            if kind == RTM_NEWTFILTER && is_foreign(body, direction, own) && found.is_none() {
                found = kind_of(body).map(|kind| format!("a filter `{kind}`"));
            }
        })
        .await;
    match listed {
        Ok(_) => Ok(found),
        // The qdisc or the interface has gone meanwhile.
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The head of the list of one priority has handle 0: of our kind it says nothing.
fn is_foreign(body: &[u8], direction: Direction, own: &str) -> bool {
    if kind_of(body).as_deref() != Some(BPF) {
        return true;
    }
    u32_at(body, 8) != Some(0)
        && BpfFilter::parse(body, direction)
            .is_none_or(|filter| filter.name.as_deref() != Some(own))
}
