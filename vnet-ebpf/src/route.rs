//! The way to a destination, as the host's own routing tables and rules say.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS},
    helpers::bpf_fib_lookup,
};
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    network::Uplink,
    reason::Handover,
};

use crate::{maps, parse::Packet, skb::Skb};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where a packet leaves this host.
pub struct Route {
    pub ifindex: u32,
    pub next_hop: Address,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether the neighbour table knows the next hop's link-layer address.
    pub resolved: bool,
}

/// `struct bpf_fib_lookup` of the kernel's `include/uapi/linux/bpf.h` as an IPv4 look-up uses it.
#[repr(C)]
pub struct FibLookup {
    family: u8,
    l4_protocol: u8,
    source_port: PortBe,
    destination_port: PortBe,
    /// In: the packet's length; out: the path's MTU. Host byte order.
    length_or_mtu: u16,
    /// In: the ingress interface; out: the egress interface.
    ifindex: u32,
    tos: u32,
    source: [u32; 4],
    /// In: the destination; out: the next hop.
    destination: [u32; 4],
    /// VLAN and link-layer addresses, which are not used.
    link_layer: [u32; 4],
}

const _: () = assert!(size_of::<FibLookup>() == size_of::<aya_ebpf::bindings::bpf_fib_lookup>());

/// Asks the host's routing for a packet that came in at `ingress_ifindex`.
#[inline(always)]
pub fn lookup(skb: Skb, packet: &Packet, ingress_ifindex: u32) -> Result<Route, Handover> {
    let fib = maps::fib_lookup().ok_or(Handover::NoRoute)?;
    *fib = FibLookup {
        family: AF_INET,
        l4_protocol: packet.protocol,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        // A length makes the kernel report the path's MTU; the smallest passes every check, because
        // what is too large is for `Packet::exceeds` to say, which knows segmentation offload.
        length_or_mtu: 1,
        ifindex: ingress_ifindex,
        tos: u32::from(packet.tos),
        source: [packet.source.to_wire(), 0, 0, 0],
        destination: [packet.destination.to_wire(), 0, 0, 0],
        link_layer: [0; 4],
    };
    let length = size_of::<FibLookup>() as i32;
    // SAFETY: the context is valid, the structure is laid out as the kernel's and as long as told.
    let result = unsafe { bpf_fib_lookup(skb.raw().cast(), (&raw mut *fib).cast(), length, 0) };
    let resolved = match u32::try_from(result) {
        Ok(BPF_FIB_LKUP_RET_SUCCESS) => true,
        Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => false,
        Ok(BPF_FIB_LKUP_RET_NOT_FWDED) => return Err(Handover::ToHost),
        _ => return Err(Handover::NoRoute),
    };
    let next_hop = if fib.family == AF_INET6 {
        Address::from_wire(fib.destination)
    } else {
        Address::from_ipv4(Ipv4Be::from_wire(fib.destination[0]))
    };
    Ok(Route { ifindex: fib.ifindex, next_hop, mtu: fib.length_or_mtu, resolved })
}

/// The address of an uplink that masquerades: the first whose subnet holds the next hop, else the
/// first, as `inet_select_addr` in the kernel's `net/ipv4/devinet.c` chooses.
#[inline(always)]
pub fn masquerade_address(uplink: &Uplink, next_hop: Address) -> Option<Ipv4Be> {
    if uplink.address_count == 0 {
        return None;
    }
    for (index, candidate) in uplink.addresses.iter().enumerate() {
        if index as u32 >= uplink.address_count {
            break;
        }
        if next_hop.is_ipv4()
            && candidate.address.shares_prefix(next_hop.ipv4_part(), candidate.prefix_length)
        {
            return Some(candidate.address);
        }
    }
    Some(uplink.addresses[0].address)
}

/// Whether an uplink still has an address that a flow is bound to.
#[inline(always)]
pub fn has_address(uplink: &Uplink, address: Ipv4Be) -> bool {
    for (index, candidate) in uplink.addresses.iter().enumerate() {
        if index as u32 >= uplink.address_count {
            break;
        }
        if candidate.address == address {
            return true;
        }
    }
    false
}
