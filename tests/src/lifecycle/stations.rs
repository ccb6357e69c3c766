//! The stations that a bridge knows, and those that the daemon has entered for the programs.

use std::collections::BTreeMap;

use anyhow::Result;
use aya::maps::{Array, HashMap, Map, MapData};
use serde_json::Value;
use vnet_common::{
    guard::MacKey,
    names::map,
    network::Config,
    shortcut::{BridgePort, Station},
};

use super::{DEADLINE, Scene};
use crate::lab::wait_until;

/// The ports that packets may pass by, by their indices.
pub fn ports(scene: &Scene) -> Result<BTreeMap<u32, BridgePort>> {
    let ports: HashMap<_, u32, BridgePort> =
        HashMap::try_from(Map::HashMap(open(scene, map::BRIDGE_PORTS)?))?;
    Ok(ports.iter().collect::<Result<_, _>>()?)
}

fn open(scene: &Scene, name: &str) -> Result<MapData> {
    let pins = scene.state()?["pins"].as_str().unwrap_or_default().to_owned();
    let pin = format!("{pins}/maps/{name}");
    Ok(scene.lab.host.enter(|| MapData::from_pin(pin))??)
}

/// The epoch of the judgements of flows.
pub fn epoch(scene: &Scene) -> Result<u32> {
    let config = Array::<_, Config>::try_from(Map::Array(open(scene, map::CONFIG)?))?.get(&0, 0)?;
    Ok(config.epoch)
}

/// MAC addresses that are entered for a bridge, with their ports.
pub fn entered(scene: &Scene) -> Result<BTreeMap<String, u32>> {
    let stations: HashMap<_, MacKey, Station> =
        HashMap::try_from(Map::HashMap(open(scene, map::STATIONS)?))?;
    let text = |key: MacKey| key.mac.to_bytes().map(|byte| format!("{byte:02x}")).join(":");
    Ok(stations.iter().flatten().map(|(key, station)| (text(key), station.port)).collect())
}

/// What the bridge itself says.
pub fn known(scene: &Scene) -> Result<BTreeMap<String, u32>> {
    let shown = scene.lab.host.run(&["bridge", "-j", "fdb", "show", "br", "virbr0"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let links: Value = serde_json::from_str(&scene.lab.host.run(&["ip", "-j", "link"])?)?;
    let index = |name: &Value| {
        let mut links = links.as_array().into_iter().flatten();
        links.find(|link| &link["ifname"] == name).and_then(|link| link["ifindex"].as_u64())
    };
    let entries = shown.as_array().into_iter().flatten();
    let stations = entries.filter(|entry| {
        entry["state"] != "permanent"
            && entry["vlan"].is_null()
            && entry["ifname"] != "virbr0"
            && !entry["flags"].as_array().into_iter().flatten().any(|flag| flag == "self")
    });
    Ok(stations
        .filter_map(|entry| {
            let mac = entry["mac"].as_str()?.to_owned();
            Some((mac, u32::try_from(index(&entry["ifname"])?).ok()?))
        })
        .collect())
}

/// Waits until the daemon has entered what the bridge knows.
pub fn wait_until_alike(scene: &Scene) -> Result<()> {
    wait_until("the stations are those of the bridge", DEADLINE, || {
        let (entered, known) = (entered(scene), known(scene));
        match (entered, known) {
            (Ok(entered), Ok(known)) if entered == known => Ok(()),
            differ => Err(format!("{differ:?}")),
        }
    })?;
    Ok(())
}
