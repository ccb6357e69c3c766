//! Turning the host's forwarding on.

use nix::net::if_::if_nametoindex;
use vnet_common::family::Family;

use crate::{
    host::sysctl,
    instance::{self, Journal, Undo},
    plan::Plan,
};

use super::startup::Running;

/// Lets the host forward what the plan's networks need forwarded, without which its routing answers
/// no look-up.
pub(super) fn enable(journal: &mut Journal, plan: &Plan) -> anyhow::Result<()> {
    for (family, name) in [(Family::Ipv4, "IPv4"), (Family::Ipv6, "IPv6")] {
        // A kernel without the family has nothing to turn on, and its bridges no guests of it.
        if plan.forwards(family) && sysctl::forwarding(family)? == Some(false) {
            turn_on(journal, family)?;
            log::info!("{name} forwarding was off: turned on until vnet ends");
        }
    }
    Ok(())
}

/// Gives the host's own setting back where no network needs forwarding any more. Returns what failed.
pub(super) async fn retract_unwanted(running: &mut Running) -> Vec<String> {
    let needed = |family| running.plan.forwards(family);
    let unwanted: Vec<Undo> = running
        .journal
        .entries()
        .iter()
        .filter(|undo| match undo {
            Undo::Forwarding { conf, .. } => !needed(family_of(conf)),
            Undo::Sysctl { name, .. } => !needed(family_of(name)),
            _ => false,
        })
        .cloned()
        .collect();
    instance::retract(&mut running.journal, &unwanted).await
}

fn family_of(parameter: &str) -> Family {
    if parameter.replace('.', "/").starts_with("net/ipv6/") { Family::Ipv6 } else { Family::Ipv4 }
}

/// The kernel couples other parameters to this one (`inet_forward_change` in `net/ipv4/devinet.c`,
/// `addrconf_fixup_forwarding` in `net/ipv6/addrconf.c`): every interface's own `forwarding`, that of
/// interfaces to come, and for IPv4 `accept_redirects` of all. What they were is written down too, to
/// be given back after the switch is.
fn turn_on(journal: &mut Journal, family: Family) -> anyhow::Result<()> {
    let conf = sysctl::conf_of(family);
    if family == Family::Ipv4 {
        let name = format!("{conf}/all/accept_redirects");
        let former = sysctl::read(&name)?;
        let given = "1".to_owned();
        if former != given {
            journal.record(Undo::Sysctl { name, former, given })?;
        }
    }
    let default = sysctl::read(&format!("{conf}/default/forwarding"))?;
    let mut interfaces = Vec::new();
    for name in sysctl::list(conf)? {
        // An interface may go while its parameters are read; `all` and `default` are none.
        let former = sysctl::read(&format!("{conf}/{name}/forwarding"));
        if let (Ok(index), Ok(former)) = (if_nametoindex(name.as_str()), former) {
            interfaces.push((index, former));
        }
    }
    journal.record(Undo::Forwarding { conf: conf.to_owned(), default, interfaces })?;
    journal.record(Undo::Sysctl {
        name: sysctl::forwarding_of(family).to_owned(),
        former: "0".to_owned(),
        given: "1".to_owned(),
    })?;
    Ok(sysctl::set_forwarding(family, true)?)
}
