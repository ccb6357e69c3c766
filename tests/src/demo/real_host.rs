//! What to type to have vnet on the host's own bridges.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;
use vnet::definition::{self, ForwardMode};

/// Where libvirt keeps its definitions.
const LIBVIRT: &str = "/etc/libvirt/qemu/networks";
/// The demonstration's own definition.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo/default.xml");

/// What matters of the host that the demonstration was started on.
#[derive(Debug, Default)]
pub(super) struct RealHost {
    bridges: Vec<Bridge>,
    definitions: Vec<Definition>,
}

/// A bridge that is there.
#[derive(Debug)]
struct Bridge {
    name: String,
    /// IPv4, with prefix length.
    addresses: Vec<String>,
}

/// A file that could be read.
#[derive(Debug)]
struct Definition {
    path: PathBuf,
    /// Nothing if the file has errors.
    network: Option<Network>,
}

#[derive(Debug)]
struct Network {
    name: String,
    /// Masqueraded: what this version serves.
    nat: bool,
    bridge: String,
}

/// Looks at the network namespace and the files that the process was started with.
pub(super) fn look() -> Result<RealHost> {
    Ok(RealHost { bridges: bridges()?, definitions: definitions(Path::new(LIBVIRT)) })
}

impl RealHost {
    /// Lines for the page, the commands among them.
    pub(super) fn advice(&self) -> String {
        let mut text = String::new();
        for definition in &self.definitions {
            if let Some(note) = self.note(definition) {
                // Writing to a string does not fail.
                let _ = writeln!(text, "  {}: {note}", definition.path.display());
            }
        }
        let served: Vec<String> = self
            .definitions
            .iter()
            .filter(|definition| definition.network.as_ref().is_some_and(|network| network.nat))
            .map(|definition| definition.path.display().to_string())
            .collect();
        if !served.is_empty() {
            return text + &format!("  cargo xtask run -- {}", served.join(" "));
        }
        text + &self.first_definition()
    }

    /// What to know of a definition before it is used.
    fn note(&self, definition: &Definition) -> Option<String> {
        let Some(network) = &definition.network else {
            return Some("has errors; `vnet check` names them".to_owned());
        };
        if !network.nat {
            return Some(format!("network `{}` is not NAT, not served yet", network.name));
        }
        if self.bridges.iter().any(|bridge| bridge.name == network.bridge) {
            return None;
        }
        let Network { name, bridge, .. } = network;
        Some(format!("bridge {bridge} is not there yet; first: virsh net-start {name}"))
    }

    /// How to get a definition when there is none.
    fn first_definition(&self) -> String {
        let own = self.bridges.iter().filter(|bridge| !is_of_a_container_engine(&bridge.name));
        let described = own
            .filter_map(|bridge| Some((&bridge.name, bridge.addresses.first()?.split_once('/')?)));
        if let Some((name, (address, prefix))) = described.into_iter().next() {
            return format!(
                "  Bridge {name} ({address}/{prefix}) is there, a definition is not. Make one and use it:
  echo \"<network><name>{name}</name><forward mode='nat'/><bridge name='{name}'/>
    <ip address='{address}' prefix='{prefix}'/></network>\" > {name}.xml
  cargo xtask run -- {name}.xml"
            );
        }
        format!(
            "  There is no bridge with an address here, and no definition in {LIBVIRT}.
  libvirt makes both (virsh net-start default). Without libvirt, as root:
  ip link add virbr0 up type bridge && ip address add 192.168.122.1/24 dev virbr0
  cargo xtask run -- {EXAMPLE}"
        )
    }
}

/// Bridges of Docker, Podman and Kubernetes are not for virtual machines.
fn is_of_a_container_engine(bridge: &str) -> bool {
    ["docker", "br-", "podman", "cni", "lxcbr"].iter().any(|prefix| bridge.starts_with(prefix))
}

fn bridges() -> Result<Vec<Bridge>> {
    let output = Command::new("ip")
        .args(["-j", "-4", "address", "show", "type", "bridge"])
        .stdin(Stdio::null())
        .output()
        .context("cannot run ip")?;
    parse_bridges(&String::from_utf8_lossy(&output.stdout)).context("cannot read what ip prints")
}

/// Reads what `ip -j address` prints; older ones print nothing at all if there is nothing.
fn parse_bridges(printed: &str) -> Result<Vec<Bridge>> {
    if printed.trim().is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<Value> = serde_json::from_str(printed)?;
    let bridge = |link: &Value| {
        let addresses = link["addr_info"].as_array().into_iter().flatten().filter_map(|address| {
            Some(format!("{}/{}", address["local"].as_str()?, address["prefixlen"].as_u64()?))
        });
        Some(Bridge { name: link["ifname"].as_str()?.to_owned(), addresses: addresses.collect() })
    };
    Ok(list.iter().filter_map(bridge).collect())
}

/// The definitions in a directory, which need not exist, by name.
fn definitions(directory: &Path) -> Vec<Definition> {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .collect();
    paths.sort();
    paths.into_iter().map(|path| Definition { network: network(&path), path }).collect()
}

fn network(path: &Path) -> Option<Network> {
    let loaded = definition::load(&[path.to_owned()]);
    let network = loaded.networks.first().filter(|_| !loaded.report.has_errors())?;
    Some(Network {
        name: network.name.value.clone(),
        nat: network.forward.mode.value == ForwardMode::Nat,
        bridge: network.bridge.name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(path: &str, name: &str, bridge: &str, nat: bool) -> Definition {
        let network = Network { name: name.to_owned(), nat, bridge: bridge.to_owned() };
        Definition { path: path.into(), network: Some(network) }
    }

    fn bridge(name: &str, addresses: &[&str]) -> Bridge {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        Bridge { name: name.to_owned(), addresses }
    }

    #[test]
    fn nat_definitions_are_the_command_s_arguments() {
        let host = RealHost {
            bridges: vec![bridge("virbr0", &["192.168.122.1/24"]), bridge("virbr1", &[])],
            definitions: vec![
                definition("/n/a.xml", "default", "virbr0", true),
                definition("/n/b.xml", "lab", "virbr1", true),
            ],
        };
        assert_eq!(host.advice(), "  cargo xtask run -- /n/a.xml /n/b.xml");
    }

    #[test]
    fn definitions_that_will_not_work_are_named_with_the_reason() {
        let mut broken = definition("/n/c.xml", "", "", false);
        broken.network = None;
        let host = RealHost {
            bridges: vec![],
            definitions: vec![
                definition("/n/a.xml", "default", "virbr0", true),
                definition("/n/b.xml", "dmz", "virbr1", false),
                broken,
            ],
        };
        assert_eq!(
            host.advice(),
            "  /n/a.xml: bridge virbr0 is not there yet; first: virsh net-start default
  /n/b.xml: network `dmz` is not NAT, not served yet
  /n/c.xml: has errors; `vnet check` names them
  cargo xtask run -- /n/a.xml"
        );
    }

    #[test]
    fn definition_for_a_bridge_without_one_is_right() {
        let bridges = vec![bridge("docker0", &["172.17.0.1/16"]), bridge("br0", &["10.1.2.3/16"])];
        let advice = RealHost { bridges, definitions: vec![] }.advice();
        assert!(advice.ends_with("\n  cargo xtask run -- br0.xml"), "{advice}");

        let (_, from) = advice.split_once("echo \"").unwrap();
        let (xml, _) = from.split_once('"').unwrap();
        let loaded = definition::load_text(Path::new("br0.xml"), xml);
        assert_eq!(loaded.report.diagnostics().len(), 0, "{xml}");
        assert_eq!(loaded.networks[0].bridge.name.as_ref().unwrap().value, "br0");
        assert_eq!(loaded.networks[0].ips[0].address.value.to_string(), "10.1.2.3");
        assert_eq!(loaded.networks[0].ips[0].prefix, 16);
    }

    #[test]
    fn host_with_nothing_is_told_how_to_make_a_bridge_and_the_example_fits_it() {
        let bridges = vec![bridge("docker0", &["172.17.0.1/16"]), bridge("br1", &[])];
        let advice = RealHost { bridges, definitions: vec![] }.advice();
        assert!(advice.contains("ip link add virbr0 up type bridge && "), "{advice}");
        let example = network(Path::new(EXAMPLE)).unwrap();
        assert!(example.nat);
        assert_eq!(example.bridge, "virbr0");
    }

    #[test]
    fn bridges_are_read_with_their_ipv4_addresses() {
        let printed = r#"[{"ifname":"virbr0","addr_info":[{"family":"inet","local":"192.168.122.1",
            "prefixlen":24}]},{},{"ifname":"br0","addr_info":[]}]"#;
        let bridges = parse_bridges(printed).unwrap();
        assert_eq!(bridges.len(), 2);
        assert_eq!(bridges[0].name, "virbr0");
        assert_eq!(bridges[0].addresses, ["192.168.122.1/24"]);
        assert_eq!(bridges[1].addresses, [""; 0]);
        assert_eq!(parse_bridges("\n").unwrap().len(), 0);
    }
}
