//! The maps of the short ways.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, DevMapHash, HashMap},
};
use vnet_common::{
    guard::{Mac, MacKey},
    limits,
    shortcut::{BridgePort, Station, XdpUplink},
};

#[map]
pub static BRIDGE_PORTS: HashMap<u32, BridgePort> =
    HashMap::with_max_entries(limits::BRIDGE_PORTS, BPF_F_NO_PREALLOC);

#[map]
pub static STATIONS: HashMap<MacKey, Station> =
    HashMap::with_max_entries(limits::STATIONS, BPF_F_NO_PREALLOC);

#[map]
pub static BRIDGE_ADDRESSES: Array<Mac> = Array::with_max_entries(limits::NETWORKS, 0);

#[map]
pub static MOVES: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub static XDP_PORTS: DevMapHash = DevMapHash::with_max_entries(limits::BRIDGE_PORTS, 0);

#[map]
pub static XDP_UPLINKS: HashMap<u32, XdpUplink> =
    HashMap::with_max_entries(limits::XDP_UPLINKS, BPF_F_NO_PREALLOC);

/// The same once more for devices with a small index, as NICs mostly have; without an index where there is none.
#[map]
pub static XDP_UPLINKS_BY_INDEX: Array<XdpUplink> =
    Array::with_max_entries(limits::XDP_UPLINKS_BY_INDEX, 0);

#[map]
pub static SHORTCUT_LEASE: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static XDP_MODE: Array<u32> = Array::with_max_entries(1, 0);
