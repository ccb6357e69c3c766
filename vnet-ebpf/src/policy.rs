//! Asks the policy table about the places of this host.

use vnet_common::{
    address::{Address, Ipv4Be},
    family::Family,
    network::{NETWORK_ISOLATED_PORTS, Network, Subnet},
    policy::{Connection, Mode, Modes, Place, Verdict},
    reason::DropReason,
};

use aya_ebpf::maps::lpm_trie::Key;

use crate::maps::{BRIDGES, NETWORKS, SUBNETS, UPLINKS};

/// A network with its slot.
#[derive(Clone, Copy)]
pub struct NetworkAt {
    pub slot: u16,
    pub network: &'static Network,
}

impl NetworkAt {
    #[inline(always)]
    pub fn place(self) -> Place {
        Place::Network {
            slot: self.slot,
            modes: Modes {
                ipv4: Mode::from_byte(self.network.mode),
                ipv6: Mode::from_byte(self.network.mode_ipv6),
            },
            forward_ifindex: self.network.forward_ifindex,
            isolated_ports: self.network.flags & NETWORK_ISOLATED_PORTS != 0,
        }
    }
}

#[inline(always)]
fn network_at(slot: u16) -> Option<NetworkAt> {
    NETWORKS.get(u32::from(slot)).map(|network| NetworkAt { slot, network })
}

/// The network whose bridge this is.
#[inline(always)]
pub fn network_of_bridge(ifindex: u32) -> Option<NetworkAt> {
    // SAFETY: the value is one word; a look-up that races with removal reads an old or a new slot.
    let slot = *unsafe { BRIDGES.get(ifindex) }?;
    network_at(slot as u16)
}

/// The network of whose subnets this address is.
#[inline(always)]
pub fn network_of_address(address: Ipv4Be) -> Option<NetworkAt> {
    let words = Address::from_ipv4(address).to_wire();
    let key = Key::new(128, bytemuck::cast::<[u32; 4], [u8; 16]>(words));
    let Subnet { network, .. } = *SUBNETS.get(key)?;
    network_at(network)
}

/// The place behind an interface through which a packet came or would leave.
#[inline(always)]
pub fn place_of_interface(ifindex: u32) -> Place {
    match network_of_bridge(ifindex) {
        Some(network) => network.place(),
        None => Place::Outside { ifindex },
    }
}

/// The place to which a route leads, if vnet may send there.
#[inline(always)]
pub fn destination_of_route(ifindex: u32) -> Result<Place, DropReason> {
    let place = place_of_interface(ifindex);
    // Without our egress hook there, a packet that the stack forwards would leave untranslated.
    if matches!(place, Place::Outside { .. }) && UPLINKS.get_ptr(ifindex).is_none() {
        return Err(DropReason::NotAnUplink);
    }
    Ok(place)
}

/// The verdict on a new flow between two places.
#[inline(always)]
pub fn verdict(source: Place, destination: Place) -> Verdict {
    vnet_common::policy::verdict(source, destination, Family::Ipv4, Connection::New)
}
