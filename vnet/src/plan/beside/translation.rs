//! Rules of netfilter that translate the same guests.

use super::Advice;
use crate::{
    definition::{ForwardMode, Network},
    host::netfilter::{Chain, Ruleset, SourceTranslation},
};

/// Rules of others that masquerade a network that vnet forwards for.
pub(super) fn translations(definitions: &[Network], rules: &Ruleset) -> Vec<Advice> {
    let forwarded = definitions.iter().filter(|network| {
        matches!(network.forward.mode.value, ForwardMode::Nat | ForwardMode::Route)
    });
    forwarded
        .filter_map(|network| {
            let rule = network.subnets().find_map(|subnet| rules.translation_of(subnet))?;
            Some(of_rule(network, rule))
        })
        .collect()
}

fn of_rule(network: &Network, rule: &SourceTranslation) -> Advice {
    let (name, mode) = (&network.name.value, network.forward.mode.value);
    let Chain { family, table, name: chain } = &rule.chain;
    let whose = if Ruleset::is_libvirts(&rule.chain) { "libvirt's " } else { "" };
    let message = format!(
        "network `{name}`: {whose}chain {chain} of table {family} {table} masquerades its guests, too: \
         packets that vnet leaves to the host's stack get no replies"
    );
    let mend = if Ruleset::is_libvirts(&rule.chain) {
        format!(
            "virsh net-edit {name}, write <forward mode='open'/>{}, then virsh net-destroy {name} and \
             virsh net-start {name}",
            if mode == ForwardMode::Nat {
                " and <vnet:masquerade/> into its <metadata>"
            } else {
                ""
            }
        )
    } else {
        format!(
            "nft -a list chain {family} {table} {chain}, and delete the rule or except the subnet in it"
        )
    };
    Advice::warning("masquerade", message, mend)
}
