//! Steps in words, for `+`, `-` and `~` lines and for errors.

use std::fmt;

use super::Step;
use crate::{definition::MacAddress, host::bridge::Settings};

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(bridge) => {
                write!(formatter, "make bridge `{}`", bridge.name)?;
                let mut separator = " with ";
                for address in &bridge.addresses {
                    write!(formatter, "{separator}{address}")?;
                    separator = ", ";
                }
                Ok(())
            }
            Self::Configure { bridge, to, .. } => {
                write!(formatter, "set {} of bridge `{bridge}`", Set(to))
            }
            Self::BringUp { bridge, .. } => write!(formatter, "bring bridge `{bridge}` up"),
            Self::AddAddress { bridge, address, .. } => {
                write!(formatter, "add {address} to bridge `{bridge}`")
            }
            Self::DeleteAddress { bridge, address, .. } => {
                write!(formatter, "take {address} off bridge `{bridge}`")
            }
            Self::Remove { bridge, .. } => write!(formatter, "delete bridge `{bridge}`"),
        }
    }
}

struct Set<'a>(&'a Settings);

impl fmt::Display for Set<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { mac, mtu, spanning_tree, vlan_filtering } = self.0;
        let on_off = |on: bool| if on { "on" } else { "off" };
        let parts = [
            mac.map(|mac| format!("the address {}", MacAddress(mac))),
            mtu.map(|mtu| format!("the MTU {mtu}")),
            spanning_tree.map(|tree| {
                let delay = f64::from(tree.forward_delay) / 100.0;
                format!("STP {} with a delay of {delay} s", on_off(tree.on))
            }),
            vlan_filtering.map(|filtering| format!("VLAN filtering {}", on_off(filtering))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        formatter.write_str(&parts.join(", "))
    }
}
