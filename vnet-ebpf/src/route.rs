//! The way to a destination, as the host's own routing tables and rules say.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LOOKUP_OUTPUT,
    },
    helpers::bpf_fib_lookup,
};
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    family::Family,
    flow::FLAG_FORWARDED,
    guard::Mac,
    reason::Handover,
};

use crate::{
    flow, forward,
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    maps,
    parse::Packet,
    policy::{End, Slot},
    session::SessionSlot,
    shortcut::way::MacPair,
    skb::Skb,
    tables,
};

/// `BPF_FIB_LOOKUP_SKIP_NEIGH` of the kernel's `include/uapi/linux/bpf.h`: the route alone.
const SKIP_NEIGH: u32 = 1 << 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Where a packet leaves this host.
pub struct Route {
    pub ifindex: u32,
    pub next_hop: Address,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether the next hop may be sent to: on kernels before 6.3, whether the neighbour table knows it.
    pub resolved: bool,
}

/// `struct bpf_fib_lookup` of the kernel's `include/uapi/linux/bpf.h` as the look-ups here use it.
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
    /// IPv4: the type of service in the first byte; IPv6: class and flow label in network order.
    traffic_class: u32,
    source: [u32; 4],
    /// In: the destination; out: the next hop.
    destination: [u32; 4],
    /// Out: VLAN, which is not used, then the MAC addresses of the interface and of the next hop.
    link_layer: [u32; 4],
}

const _: () = assert!(size_of::<FibLookup>() == size_of::<aya_ebpf::bindings::bpf_fib_lookup>());

/// Asks the host's routing for a packet that came in at `ingress_ifindex`.
#[inline(always)]
pub fn lookup<V: Ip>(
    skb: Skb,
    packet: &Packet<V>,
    ingress_ifindex: u32,
) -> Result<Route, Handover> {
    let fib = maps::fib_lookup().ok_or(Handover::NoRoute)?;
    let (family, source, destination) = match V::FAMILY {
        Family::Ipv4 => (
            AF_INET,
            [V::widen(packet.source).ipv4_part().to_wire(), 0, 0, 0],
            [V::widen(packet.destination).ipv4_part().to_wire(), 0, 0, 0],
        ),
        Family::Ipv6 => {
            (AF_INET6, V::widen(packet.source).to_wire(), V::widen(packet.destination).to_wire())
        }
    };
    *fib = FibLookup {
        family,
        l4_protocol: packet.protocol,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        // A length makes the kernel report the path's MTU; the smallest passes every check, because
        // what is too large is for `Packet::exceeds` to say, which knows segmentation offload.
        length_or_mtu: 1,
        ifindex: ingress_ifindex,
        traffic_class: packet.traffic_class,
        source,
        destination,
        link_layer: [0; 4],
    };
    // The redirect resolves the neighbour by itself: waiting for the stack to do that would make guests
    // depend on the host's firewall, which may drop what it forwards.
    let resolved = match fib.ask(skb, SKIP_NEIGH) {
        // Kernels before 6.3 do not know that flag.
        Err(Handover::NoRoute) => fib.ask(skb, 0)?,
        answer => answer?,
    };
    Ok(Route { ifindex: fib.ifindex, next_hop: fib.next_hop(), mtu: fib.length_or_mtu, resolved })
}

/// The next hop towards a destination by way of one interface, as for a packet of the host's own.
#[inline(always)]
pub fn next_hop_at<V: Ip>(skb: Skb, destination: V::Address, ifindex: u32) -> Option<Address> {
    Some(towards::<V>(skb, destination, ifindex, 0)?.next_hop())
}

/// The source that the host itself would take towards a destination by way of one interface; `None`
/// from kernels before 6.7, which do not tell.
#[inline(always)]
pub fn source_towards<V: Ip>(
    skb: Skb,
    destination: V::Address,
    ifindex: u32,
) -> Option<V::Address> {
    /// `BPF_FIB_LOOKUP_SRC` of the kernel's `include/uapi/linux/bpf.h`.
    const SOURCE: u32 = 1 << 4;
    let fib = towards::<V>(skb, destination, ifindex, SOURCE)?;
    Some(V::narrow(match V::FAMILY {
        Family::Ipv4 => Address::from_ipv4(Ipv4Be::from_wire(fib.source[0])),
        Family::Ipv6 => Address::from_wire(fib.source),
    }))
}

/// The MAC addresses of frames to a neighbour at an interface, destination first; `None` if the kernel does not
/// know the neighbour, or the interface has no such addresses.
#[inline(always)]
pub fn neighbour(skb: Skb, address: Address, ifindex: u32) -> Option<MacPair> {
    let (fib, resolved) = if address.is_ipv4() {
        towards_resolved::<Ipv4>(skb, address.ipv4_part(), ifindex, 0)?
    } else {
        towards_resolved::<Ipv6>(skb, address, ifindex, 0)?
    };
    if !resolved || fib.next_hop() != address {
        return None;
    }
    let [_, macs @ ..] = fib.link_layer;
    let [source, destination]: MacPair = bytemuck::cast(macs);
    let is_ethernet =
        Mac::from_bytes(source).is_unicast() && Mac::from_bytes(destination).is_unicast();
    is_ethernet.then_some([destination, source])
}

#[inline(always)]
fn towards<V: Ip>(
    skb: Skb,
    destination: V::Address,
    ifindex: u32,
    flags: u32,
) -> Option<&'static mut FibLookup> {
    let (fib, _) = towards_resolved::<V>(skb, destination, ifindex, flags)?;
    Some(fib)
}

/// As [`towards`], and whether the neighbour is resolved.
#[inline(always)]
fn towards_resolved<V: Ip>(
    skb: Skb,
    destination: V::Address,
    ifindex: u32,
    flags: u32,
) -> Option<(&'static mut FibLookup, bool)> {
    let fib = maps::fib_lookup()?;
    let wide = V::widen(destination);
    let (family, destination) = match V::FAMILY {
        Family::Ipv4 => (AF_INET, [wide.ipv4_part().to_wire(), 0, 0, 0]),
        Family::Ipv6 => (AF_INET6, wide.to_wire()),
    };
    *fib = FibLookup {
        family,
        l4_protocol: V::ICMP,
        source_port: PortBe::NONE,
        destination_port: PortBe::NONE,
        length_or_mtu: 1,
        ifindex,
        traffic_class: 0,
        source: [0; 4],
        destination,
        link_layer: [0; 4],
    };
    let resolved = fib.ask(skb, BPF_FIB_LOOKUP_OUTPUT | flags).ok()?;
    // In IPv6 the kernel prefers routes by that interface but does not insist on it.
    (fib.ifindex == ifindex).then_some((fib, resolved))
}

impl FibLookup {
    /// Asks the kernel; whether the next hop's neighbour is resolved.
    #[inline(always)]
    fn ask(&mut self, skb: Skb, flags: u32) -> Result<bool, Handover> {
        let length = size_of::<Self>() as i32;
        // SAFETY: the context is valid, the structure is laid out as the kernel's and as long as told.
        let result = unsafe {
            bpf_fib_lookup(skb.raw().cast(), core::ptr::from_mut(self).cast(), length, flags)
        };
        match u32::try_from(result) {
            Ok(BPF_FIB_LKUP_RET_SUCCESS) => Ok(true),
            Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => Ok(false),
            Ok(BPF_FIB_LKUP_RET_NOT_FWDED) => Err(Handover::ToHost),
            _ => Err(Handover::NoRoute),
        }
    }

    /// What the last look-up of a packet's route has found.
    #[inline(always)]
    pub fn route(&self) -> Route {
        let (ifindex, next_hop, mtu) = (self.ifindex, self.next_hop(), self.length_or_mtu);
        Route { ifindex, next_hop, mtu, resolved: true }
    }

    #[inline(always)]
    fn next_hop(&self) -> Address {
        if self.family == AF_INET6 {
            Address::from_wire(self.destination)
        } else {
            Address::from_ipv4(Ipv4Be::from_wire(self.destination[0]))
        }
    }
}

/// Chooses the address that this CPU's new flow is masqueraded to, from its network, its uplink and
/// its next hop.
///
/// One of the network's own range (`<nat><address>`) if it has one, always the same for a guest
/// (RFC 4787, REQ-2: paired pooling); else the first of the uplink whose subnet holds the next hop,
/// else the first, as `inet_select_addr` in the kernel's `net/ipv4/devinet.c` chooses.
///
/// Called by [`Ip::choose_external`].
#[inline(always)]
pub fn choose_external<V: Ip>() -> bool {
    let Some(new) = maps::new_flow() else { return false };
    let pool = Slot(new.network).pool::<V>(End::of_interface(new.uplink_ifindex));
    if pool.is_some() {
        new.mapping.external = Address::from_ipv4(pool.pick(new.mapping.inside.ipv4_part()));
        return true;
    }
    let Some(uplink) = tables::uplink(new.uplink_ifindex) else { return false };
    let (addresses, count) = V::addresses(uplink);
    if count == 0 {
        return false;
    }
    let is_own_family = new.next_hop.is_ipv4() == (V::FAMILY as u8 == Family::Ipv4 as u8);
    let next_hop = V::narrow(new.next_hop);
    for (index, candidate) in addresses.iter().enumerate() {
        if index as u32 >= count {
            break;
        }
        if is_own_family && V::share_prefix(candidate.address, next_hop, candidate.prefix_length) {
            new.mapping.external = V::widen(candidate.address);
            return true;
        }
    }
    new.mapping.external = V::widen(addresses[0].address);
    true
}

/// Whether a flow may still be masqueraded to the address that it is bound to, at the interface that
/// it is bound to; or whether the port forward that let it in is still there. Its guest has to be the
/// one that it had. Called by [`Ip::keeps_external`].
#[inline(always)]
pub fn keeps_external<V: Ip>(session: SessionSlot) -> bool {
    if flow::has_lost_its_guest(session) {
        return false;
    }
    if session.flags() & FLAG_FORWARDED != 0 {
        return forward::leads_to(session);
    }
    let uplink_ifindex = session.uplink_ifindex();
    let external = V::narrow(session.external());
    let pool = Slot(session.network()).pool::<V>(End::of_interface(uplink_ifindex));
    if pool.is_some() {
        return pool.contains(V::widen(external).ipv4_part());
    }
    let Some(uplink) = tables::uplink(uplink_ifindex) else { return false };
    let (addresses, count) = V::addresses(uplink);
    for (index, candidate) in addresses.iter().enumerate() {
        if index as u32 >= count {
            break;
        }
        if candidate.address == external {
            return true;
        }
    }
    false
}
