//! The guard's maps.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LpmTrie},
};
use vnet_common::{
    address::Address,
    guard::{AddressHolder, AddressKey, GuestPort, Learned, MacKey, RouteKey},
    limits,
};

#[map]
pub static GUARD_PORTS: HashMap<u32, GuestPort> =
    HashMap::with_max_entries(limits::GUEST_PORTS, BPF_F_NO_PREALLOC);

#[map]
pub static GUARD_LEARNED: HashMap<u32, Learned> =
    HashMap::with_max_entries(limits::GUEST_PORTS, BPF_F_NO_PREALLOC);

#[map]
pub static GUARD_MACS: HashMap<MacKey, u32> =
    HashMap::with_max_entries(2 * limits::GUEST_PORTS, BPF_F_NO_PREALLOC);

#[map]
pub static GUARD_ADDRESSES: HashMap<AddressKey, AddressHolder> =
    HashMap::with_max_entries(limits::HELD_ADDRESSES, BPF_F_NO_PREALLOC);

#[map]
pub static GUARD_ROUTES: LpmTrie<RouteKey, Address> =
    LpmTrie::with_max_entries(limits::GUEST_ROUTES, BPF_F_NO_PREALLOC);
