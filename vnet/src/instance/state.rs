//! What an instance runs, as it tells other processes.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Name;
use crate::{
    definition::MacAddress,
    plan::{LongWay, XdpSetting},
    services::ServiceState,
};

const FILE: &str = "state.json";
const NEW_FILE: &str = "state.json.new";
/// Everything that may be left of it.
pub(super) const FILES: [&str; 2] = [NEW_FILE, FILE];

/// What an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`vnet_common::names::LAYOUT`] of the maps.
    #[serde(default)]
    pub layout: u32,
    /// Version of vnet that wrote this.
    pub version: String,
    /// The instance's name.
    pub instance: String,
    /// The daemon's process.
    pub pid: u32,
    /// When it started, in seconds of Unix time.
    pub started: u64,
    /// Where the maps and links are pinned.
    pub pins: PathBuf,
    /// Live flows that there may be.
    pub flow_limit: u32,
    /// The networks, in the order of their definitions.
    pub networks: Vec<NetworkState>,
    /// The interfaces towards outside.
    pub uplinks: Vec<UplinkState>,
    /// The attached programs, in the order of attachment.
    pub hooks: Vec<HookState>,
    /// Guests whose addresses are known.
    #[serde(default)]
    pub guests: Vec<GuestState>,
    /// How guests are served addresses and names, where that is wanted.
    #[serde(default)]
    pub services: Vec<ServiceState>,
    /// What takes a short way past the bridges, and what does not.
    #[serde(default)]
    pub shortcut: ShortcutState,
}

/// The short ways.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortcutState {
    /// Whether there are any (`--short-ways`).
    #[serde(default)]
    pub on: bool,
    /// When XDP is used.
    pub setting: XdpSetting,
    /// The devices for XDP, by rising index.
    pub xdp: Vec<XdpState>,
    /// What keeps packets at their bridges.
    pub long_ways: Vec<LongWay>,
}

/// A device for XDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpState {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// The program.
    pub program: String,
    /// The kernel's number of the program, if it is attached natively.
    pub program_id: Option<u32>,
    /// Why it is not.
    pub reason: Option<String>,
}

/// A network that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Its slot in the network table, which its counters have too.
    pub slot: u16,
    /// The definition's name.
    pub name: String,
    /// libvirt's word for how its IPv4 is connected.
    pub mode: String,
    /// The same for IPv6: a NAT network without `<nat ipv6='yes'/>` is routed there.
    pub mode_ipv6: String,
    /// The bridge.
    pub bridge: String,
    /// The bridge's interface index; 0 while there is no such bridge.
    pub bridge_ifindex: u32,
    /// The subnets of the guests.
    pub subnets: Vec<IpNet>,
    /// Addresses of the bridge that guests of NAT networks are masqueraded to when they reach
    /// guests of this one, the preferred one of a family first.
    pub masquerade: Vec<IpAddr>,
}

/// An interface towards outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkState {
    /// Its name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Addresses to masquerade to, IPv4 first, the preferred one of a family first.
    pub addresses: Vec<IpAddr>,
}

/// An attached program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// The interface's name.
    pub interface: String,
    /// The interface's index.
    pub ifindex: u32,
    /// `ingress` or `egress`
    pub direction: String,
    /// The program's name in the object.
    pub program: String,
    /// The kernel's number of the program.
    pub program_id: u32,
    /// `tcx` or `clsact`
    pub mechanism: String,
}

/// A guest's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestState {
    /// The port's name.
    pub interface: String,
    /// The port's index.
    pub ifindex: u32,
    /// Slot of the network.
    pub network: u16,
    /// The guest's MAC address, if it is known.
    pub mac: Option<MacAddress>,
    /// The addresses that it has by the definition or by leases.
    pub addresses: Vec<IpAddr>,
}

impl State {
    /// Reads the state of an instance; `None` if there is no such instance.
    pub fn read(name: &Name) -> io::Result<Option<Self>> {
        read(name, FILE)
    }

    /// Writes the state where nobody looks.
    pub fn stage(&self, directory: &Path) -> io::Result<()> {
        stage(directory, NEW_FILE, self)
    }

    /// Shows what was staged.
    pub fn commit(directory: &Path) -> io::Result<()> {
        commit(directory, FILE, NEW_FILE)
    }
}

/// Reads a file of JSON; `None` if there is none.
pub(super) fn read<T: DeserializeOwned>(name: &Name, file: &str) -> io::Result<Option<T>> {
    match fs::read(name.runtime_directory().join(file)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file of JSON beside the one that it will replace.
pub(super) fn stage(directory: &Path, new_file: &str, content: &impl Serialize) -> io::Result<()> {
    let new = directory.join(new_file);
    let written = fs::write(&new, serde_json::to_vec_pretty(content)?);
    if written.is_err() {
        // Half of it, on a full file system.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Puts a staged file in its place; there may be none.
pub(super) fn commit(directory: &Path, file: &str, new_file: &str) -> io::Result<()> {
    match fs::rename(directory.join(new_file), directory.join(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}
