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
    kind: Kind,
    bridge: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// On a bridge that libvirt makes for it.
    OwnBridge,
    /// On a bridge of the host (mode 'bridge').
    HostBridge,
    /// On no Linux bridge: macvtap, `hostdev`, Open vSwitch. vnet leaves it alone.
    NotServed,
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
            .filter(|definition| {
                definition.network.as_ref().is_some_and(|network| network.kind != Kind::NotServed)
            })
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
        let Network { name, kind, bridge } = network;
        let is_there = self.bridges.iter().any(|own| own.name == *bridge);
        match kind {
            Kind::NotServed => Some(format!("network `{name}` is on no Linux bridge: not served")),
            Kind::OwnBridge | Kind::HostBridge if is_there => None,
            Kind::OwnBridge => {
                Some(format!("bridge {bridge} is not there yet; first: virsh net-start {name}"))
            }
            Kind::HostBridge => Some(format!("bridge {bridge} is not there yet; make it first")),
        }
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
        kind: kind(network),
        bridge: network.bridge.name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
    })
}

fn kind(network: &definition::Network) -> Kind {
    let mode = network.forward.mode.value;
    if mode.has_own_bridge() {
        Kind::OwnBridge
    } else if mode == ForwardMode::Bridge
        && network.bridge.name.is_some()
        && network.virtual_port.is_none()
    {
        Kind::HostBridge
    } else {
        Kind::NotServed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(path: &str, name: &str, bridge: &str, kind: Kind) -> Definition {
        let network = Network { name: name.to_owned(), kind, bridge: bridge.to_owned() };
        Definition { path: path.into(), network: Some(network) }
    }

    fn bridge(name: &str, addresses: &[&str]) -> Bridge {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        Bridge { name: name.to_owned(), addresses }
    }

    #[test]
    fn definitions_of_every_served_kind_are_the_command_s_arguments() {
        let host = RealHost {
            bridges: vec![bridge("virbr0", &["192.168.122.1/24"]), bridge("br0", &[])],
            definitions: vec![
                definition("/n/a.xml", "default", "virbr0", Kind::OwnBridge),
                definition("/n/b.xml", "lan", "br0", Kind::HostBridge),
            ],
        };
        assert_eq!(host.advice(), "  cargo xtask run -- /n/a.xml /n/b.xml");
    }

    #[test]
    fn definitions_that_will_not_work_are_named_with_the_reason() {
        let mut broken = definition("/n/d.xml", "", "", Kind::NotServed);
        broken.network = None;
        let host = RealHost {
            bridges: vec![],
            definitions: vec![
                definition("/n/a.xml", "default", "virbr0", Kind::OwnBridge),
                definition("/n/b.xml", "dmz", "br0", Kind::HostBridge),
                definition("/n/c.xml", "direct", "", Kind::NotServed),
                broken,
            ],
        };
        assert_eq!(
            host.advice(),
            "  /n/a.xml: bridge virbr0 is not there yet; first: virsh net-start default
  /n/b.xml: bridge br0 is not there yet; make it first
  /n/c.xml: network `direct` is on no Linux bridge: not served
  /n/d.xml: has errors; `vnet check` names them
  cargo xtask run -- /n/a.xml /n/b.xml"
        );
    }

    #[test]
    fn what_has_a_linux_bridge_is_served_in_every_mode() {
        let kind_of = |body: &str| {
            let xml = format!("<network><name>n</name>{body}</network>");
            let loaded = definition::load_text(Path::new("n.xml"), &xml);
            assert!(!loaded.report.has_errors(), "{xml}");
            kind(&loaded.networks[0])
        };
        let ip = "<bridge name='virbr0'/><ip address='192.168.122.1' prefix='24'/>";
        assert_eq!(kind_of(ip), Kind::OwnBridge);
        for mode in ["nat", "route", "open"] {
            assert_eq!(kind_of(&format!("<forward mode='{mode}'/>{ip}")), Kind::OwnBridge);
        }
        let bridged = "<forward mode='bridge'/><bridge name='br0'/>";
        assert_eq!(kind_of(bridged), Kind::HostBridge);
        let on_a_switch = format!("{bridged}<virtualport type='openvswitch'/>");
        assert_eq!(kind_of(&on_a_switch), Kind::NotServed);
        let macvtap = "<forward mode='bridge'><interface dev='eth0'/></forward>";
        assert_eq!(kind_of(macvtap), Kind::NotServed);
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
        assert_eq!(example.kind, Kind::OwnBridge);
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
