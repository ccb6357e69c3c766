//! What differs between two sets of definitions, for people to read before and after a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Network;

/// A network that one set has and the other has not, or has differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Difference {
    /// Only the new set has it.
    Added {
        /// Its name.
        name: String,
        /// How it is connected, and by which bridge.
        summary: String,
    },
    /// Only the old set has it.
    Removed {
        /// Its name.
        name: String,
    },
    /// Both have it.
    Changed {
        /// Its name.
        name: String,
        /// What differs.
        settings: Vec<Setting>,
    },
    /// What is set beside the definitions.
    Settings {
        /// What differs.
        settings: Vec<Setting>,
    },
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its place in the definition, as `vnet check -o json` has it.
    pub path: String,
    /// What it was; none if it was not set.
    pub old: Option<String>,
    /// What it is; none if it is not set.
    pub new: Option<String>,
}

/// What `new` has differently from `old`, by the networks' names.
#[must_use]
pub fn differences(old: &[Network], new: &[Network]) -> Vec<Difference> {
    let by_name = |networks: &[Network]| -> BTreeMap<String, BTreeMap<String, String>> {
        networks.iter().map(|network| (network.name.value.clone(), settings(network))).collect()
    };
    let (old, new_settings) = (by_name(old), by_name(new));
    let mut found = Vec::new();
    for name in old.keys().filter(|name| !new_settings.contains_key(*name)) {
        found.push(Difference::Removed { name: name.clone() });
    }
    for network in new {
        let name = network.name.value.clone();
        let Some(former) = old.get(&name) else {
            found.push(Difference::Added { name, summary: summary(network) });
            continue;
        };
        let Some(current) = new_settings.get(&name) else { continue };
        let paths: BTreeSet<_> = former.keys().chain(current.keys()).collect();
        let settings: Vec<_> = paths
            .into_iter()
            .filter(|path| former.get(*path) != current.get(*path))
            .map(|path| Setting {
                path: path.clone(),
                old: former.get(path).cloned(),
                new: current.get(path).cloned(),
            })
            .collect();
        if !settings.is_empty() {
            found.push(Difference::Changed { name, settings });
        }
    }
    found
}

fn summary(network: &Network) -> String {
    let mut words = vec![network.forward.mode.value.name().to_owned()];
    words.extend(network.bridge.name.as_ref().map(|bridge| bridge.value.clone()));
    words.extend(network.subnets().map(|subnet| subnet.to_string()));
    words.join(", ")
}

/// Every value of a definition by its path.
fn settings(network: &Network) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    // The model has nothing that JSON cannot say.
    let value = serde_json::to_value(network).unwrap_or_default();
    flatten("", &value, &mut settings);
    settings
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, into);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, into);
            }
        }
        Value::Null => {}
        Value::String(text) => {
            into.insert(path.to_owned(), text.clone());
        }
        other => {
            into.insert(path.to_owned(), other.to_string());
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { name, summary } => write!(formatter, "+ {} ({summary})", shown(name)),
            Self::Removed { name } => write!(formatter, "- {}", shown(name)),
            Self::Changed { name, settings } => {
                write!(formatter, "~ {}", shown(name))?;
                write_settings(formatter, settings)
            }
            Self::Settings { settings } => {
                write!(formatter, "~ settings")?;
                write_settings(formatter, settings)
            }
        }
    }
}

fn write_settings(formatter: &mut fmt::Formatter<'_>, settings: &[Setting]) -> fmt::Result {
    for Setting { path, old, new } in settings {
        let or_none = |value: &Option<String>| value.as_deref().map_or("(none)".into(), shown);
        write!(formatter, "\n    {path}: {} -> {}", or_none(old), or_none(new))?;
    }
    Ok(())
}

/// Without what would move the cursor of a terminal.
fn shown(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::definition::load_text;

    fn network(name: &str, mode: &str, rest: &str) -> Vec<Network> {
        let text = format!(
            "<network><name>{name}</name><forward mode='{mode}'/><bridge name='virbr0'/>\
             <ip address='192.168.122.1' prefix='24'/>{rest}</network>"
        );
        let loaded = load_text(Path::new("test.xml"), &text);
        assert!(!loaded.report.has_errors());
        loaded.networks
    }

    fn lines(old: &[Network], new: &[Network]) -> Vec<String> {
        differences(old, new).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_new_gone_or_different_has_a_line_and_the_rest_has_none() {
        let (old, new) = (network("a", "nat", ""), network("a", "route", "<mtu size='1400'/>"));
        assert_eq!(lines(&old, &old), [""; 0]);
        assert_eq!(lines(&[], &old), ["+ a (nat, virbr0, 192.168.122.0/24)"]);
        assert_eq!(lines(&old, &[]), ["- a"]);
        assert_eq!(
            lines(&old, &network("b", "route", "")),
            ["- a", "+ b (route, virbr0, 192.168.122.0/24)"]
        );
        let changed = lines(&old, &new).join("\n");
        assert!(changed.starts_with("~ a\n"), "{changed}");
        assert!(changed.contains("\n    forward.mode: nat -> route"), "{changed}");
        assert!(changed.contains("\n    mtu: (none) -> 1400"), "{changed}");
    }

    #[test]
    fn whitespace_and_comments_are_no_difference() {
        let plain = network("a", "nat", "<mtu size='1400'/>");
        let spaced = network("a", "nat", "\n  <!-- small -->\n  <mtu  size='1400' />\n");
        assert_eq!(lines(&plain, &spaced), [""; 0]);
    }
}
