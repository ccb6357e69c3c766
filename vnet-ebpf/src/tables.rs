//! The tables that follow definitions and the host's addresses, as they were when the run began.
//!
//! They are there twice: while packets see one generation, userspace writes the next one, and a new
//! epoch shows it. A run takes the epoch once, so that it never judges by some of both.

use aya_ebpf::maps::lpm_trie::Key;
use vnet_common::{
    address::{Address, PortBe},
    forward::{FORWARD_KEY_BITS, Forward, ForwardKey},
    network::{self, InterfaceKey, Network, SUBNET_KEY_BITS, Subnet, SubnetKey, Uplink},
};

use crate::maps::{BRIDGES, CONFIG, EPOCH_OF_RUN, FORWARDS, NETWORKS, SUBNETS, UPLINKS};

/// Takes the current epoch for the whole run. The first step of every program begins with it.
#[inline(always)]
pub fn begin() -> Option<u32> {
    let (config, of_run) = (CONFIG.get_ptr(0)?, EPOCH_OF_RUN.get_ptr_mut(0)?);
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    let epoch = unsafe { (&raw const (*config).epoch).read_volatile() };
    // SAFETY: the element is this CPU's own until the program ends.
    unsafe { *of_run = epoch };
    Some(epoch)
}

/// The epoch of this run: what it judges is stamped with it, so that a change meanwhile makes it stale.
#[inline(always)]
pub fn epoch() -> Option<u32> {
    EPOCH_OF_RUN.get(0).copied()
}

/// Whether the epoch of this run still is the current one.
#[inline(always)]
pub fn is_current() -> bool {
    // SAFETY: as in `begin`.
    let current =
        CONFIG.get_ptr(0).map(|config| unsafe { (&raw const (*config).epoch).read_volatile() });
    current.is_some() && current == epoch()
}

#[inline(always)]
fn generation() -> u32 {
    epoch().map_or(0, network::generation)
}

/// The network in a slot. One that is in no slot has no bridge.
#[inline(always)]
pub fn network(slot: u16) -> Option<&'static Network> {
    NETWORKS.get(Network::index(slot, generation()))
}

/// The slot of the network whose bridge this is.
#[inline(always)]
pub fn slot_of_bridge(ifindex: u32) -> Option<u16> {
    // SAFETY: no entry of the current generation is written.
    unsafe { BRIDGES.get(InterfaceKey { ifindex, generation: generation() }) }
        .map(|slot| *slot as u16)
}

/// The longest subnet that has an address, IPv4 in its mapped form.
#[inline(always)]
pub fn subnet_of(address: Address) -> Option<&'static Subnet> {
    SUBNETS.get(Key::new(SUBNET_KEY_BITS, SubnetKey { generation: generation(), address }))
}

/// The uplink that an interface is.
#[inline(always)]
pub fn uplink(ifindex: u32) -> Option<&'static Uplink> {
    // SAFETY: as in `slot_of_bridge`.
    unsafe { UPLINKS.get(InterfaceKey { ifindex, generation: generation() }) }
}

/// The forward of an external endpoint.
#[inline(always)]
pub fn forward_of(external: Address, protocol: u8, port: PortBe) -> Option<&'static Forward> {
    let key = ForwardKey { external, protocol, generation: generation() as u8, port };
    FORWARDS.get(Key::new(FORWARD_KEY_BITS, bytemuck::cast(key)))
}
