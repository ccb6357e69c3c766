//! Who is behind a port, and which addresses are its own.

use aya_ebpf::{bindings::BPF_NOEXIST, maps::lpm_trie::Key};
use vnet_common::{
    address::Address,
    guard::{AddressHolder, AddressKey, GuestPort, Learned, Mac, MacKey, RouteKey, flags},
    limits,
    network::Subnet,
    reason::DropReason,
    timeout::NANOSECONDS,
};

use super::maps::{GUARD_ADDRESSES, GUARD_LEARNED, GUARD_MACS, GUARD_PORTS, GUARD_ROUTES};
use crate::{atomic::SharedWord, flow::now, tables};

#[inline(always)]
pub fn port_of(ifindex: u32) -> Option<&'static GuestPort> {
    // SAFETY: entries are replaced as a whole by userspace.
    unsafe { GUARD_PORTS.get(ifindex) }
}

/// The guest behind a port.
pub struct Guest {
    pub mac: Mac,
    port: &'static GuestPort,
    ifindex: u32,
}

impl Guest {
    /// By the MAC address that its port was given, or by that of the first frame of all.
    #[inline(always)]
    pub fn identify(
        port: &'static GuestPort,
        ifindex: u32,
        source: Mac,
    ) -> Result<Self, DropReason> {
        let mut guest = Self { mac: port.mac, port, ifindex };
        if guest.mac == Mac::NONE {
            guest.mac = guest.learn_mac(source).ok_or(DropReason::SpoofedMac)?;
        }
        Ok(guest)
    }

    /// Whether any of these checks is on.
    #[inline(always)]
    pub fn checks(&self, which: u16) -> bool {
        self.port.flags & which != 0
    }

    /// Whether the guest may use an address. What nobody holds becomes its own where its port
    /// learns.
    #[inline(always)]
    pub fn may_use(&self, address: Address) -> bool {
        if let Some(is_own) = self.is_holder(address) {
            return is_own;
        }
        match vnet_learn_address(&raw const address, self.ifindex, self.mac.to_word()) {
            0 => self.is_behind(address),
            _ => true,
        }
    }

    /// Whether the guest may ask who has an address that it wants for itself.
    #[inline(always)]
    pub fn may_probe(&self, address: Address) -> bool {
        if self.may_use(address) {
            return true;
        }
        // Its lease is known to the DHCP server a moment before it is known here.
        self.checks(flags::PROBES)
            && self.is_holder(address).is_none()
            && is_learnable(self.port, address)
    }

    /// Whether an address is this guest's or another's; `None` if nobody holds it.
    #[inline(always)]
    fn is_holder(&self, address: Address) -> Option<bool> {
        let key = AddressKey { bridge: self.port.bridge, address };
        let holder = GUARD_ADDRESSES.get_ptr_mut(key)?;
        // SAFETY: map memory outlives the program; who holds an address does not change in place.
        let (mac, learned_at) = unsafe { ((*holder).mac, (*holder).learned_at) };
        if mac != self.mac {
            return Some(false);
        }
        if learned_at != 0 {
            // SAFETY: as above; the field is an aligned word.
            let seen = unsafe { SharedWord::new(&raw mut (*holder).seen) };
            touch(seen);
        }
        Some(true)
    }

    /// Whether an address belongs to a prefix that is routed to this guest (`<route>`).
    #[inline(always)]
    fn is_behind(&self, address: Address) -> bool {
        let key = RouteKey { bridge: self.port.bridge, address };
        let Some(gateway) = GUARD_ROUTES.get(Key::new(8 * size_of::<RouteKey>() as u32, key))
        else {
            return false;
        };
        self.is_holder(*gateway) == Some(true)
    }

    /// The MAC address of the first frame, if no other port of the bridge has it.
    #[inline(always)]
    fn learn_mac(&self, source: Mac) -> Option<Mac> {
        let learned = GUARD_LEARNED.get_ptr_mut(self.ifindex)?;
        // SAFETY: map memory outlives the program; the field is an aligned word.
        let word = unsafe { SharedWord::new(&raw mut (*learned).mac) };
        let known = word.load();
        if known != 0 {
            return Some(Mac::from_word(known));
        }
        if !source.is_unicast() {
            return None;
        }
        let key = MacKey::new(self.port.bridge, source);
        if GUARD_MACS.insert(key, self.ifindex, u64::from(BPF_NOEXIST)).is_err() {
            // SAFETY: the value is one word.
            let holder = unsafe { GUARD_MACS.get(key) }.copied();
            if holder != Some(self.ifindex) {
                return None;
            }
        }
        if word.replace(0, source.to_word()) {
            // Nobody else may claim the address that follows from it.
            let _ = hold(self.port.bridge, source.link_local(), source, self.ifindex);
            return Some(source);
        }
        // Another CPU had another frame first.
        let known = Mac::from_word(word.load());
        if known != source {
            let _ = GUARD_MACS.remove(key);
        }
        Some(known)
    }
}

/// Notes the time of use, once a second at most.
#[inline(always)]
fn touch(seen: SharedWord) {
    let (now, before) = (now(), seen.load());
    if now.saturating_sub(before) > NANOSECONDS {
        seen.replace(before, now);
    }
}

/// Gives the guest an address that nobody holds; 0 if it may have no more, or not this one.
///
/// A global function, as `vnet_reject`; the verifier wants to see that pointers are checked for null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_learn_address(address: *const Address, ifindex: u32, mac: u64) -> u32 {
    let Some(port) = port_of(ifindex) else { return 0 };
    if address.is_null() {
        return 0;
    }
    // SAFETY: the only caller passes a reference's address.
    let address = unsafe { &*address };
    let (address, mac) = (*address, Mac::from_word(mac));
    u32::from(learn(port, ifindex, address, mac).is_some())
}

#[inline(always)]
fn learn(port: &GuestPort, ifindex: u32, address: Address, mac: Mac) -> Option<()> {
    if address == mac.link_local() {
        return hold(port.bridge, address, mac, ifindex);
    }
    let learned = GUARD_LEARNED.get_ptr_mut(ifindex)?;
    let (count, limit) = counter(port, learned, address);
    if limit == 0 || !is_learnable(port, address) {
        return None;
    }
    let is_global_ipv6 = !address.is_ipv4() && !address.is_link_local_ipv6();
    let place = count.fetch_add(1);
    if place < limit && hold(port.bridge, address, mac, ifindex).is_some() {
        if is_global_ipv6 {
            remember(learned, place, address);
        }
        return Some(());
    }
    count.fetch_decrement();
    if place < limit || !is_global_ipv6 {
        return None;
    }
    // Two CPUs may choose the same place. Then an address is forgotten here that its holder keeps until
    // the port goes; it takes an idle one each time, so that it is not worth a guest's while.
    let (place, idle) = idle_address(port.bridge, learned, ifindex, limit)?;
    hold(port.bridge, address, mac, ifindex)?;
    let _ = GUARD_ADDRESSES.remove(AddressKey { bridge: port.bridge, address: idle });
    remember(learned, place, address);
    Some(())
}

#[inline(always)]
fn remember(learned: *mut Learned, place: u64, address: Address) {
    let place = place as usize & (PLACES - 1);
    // SAFETY: the pointer is of a map's value, which outlives the program; the place is within it.
    unsafe { (&raw mut (*learned).addresses).cast::<Address>().add(place).write(address) };
}

const PLACES: usize = limits::LEARNED_IPV6 as usize;
const _: () = assert!(PLACES.is_power_of_two());

/// A learned address of a port that has not been used for a while, and its place.
#[inline(always)]
fn idle_address(
    bridge: u32,
    learned: *mut Learned,
    ifindex: u32,
    limit: u64,
) -> Option<(u64, Address)> {
    let now = now();
    for place in 0..PLACES {
        // SAFETY: as in `remember`.
        let address =
            unsafe { (&raw const (*learned).addresses).cast::<Address>().add(place).read() };
        // SAFETY: a look-up that races with removal reads an old time.
        let holder = unsafe { GUARD_ADDRESSES.get(AddressKey { bridge, address }) };
        let is_idle = holder.is_none_or(|holder| {
            holder.learned_at == ifindex
                && now.saturating_sub(holder.seen) > limits::LEARNED_IDLE_NS
        });
        if is_idle && (place as u64) < limit {
            return Some((place as u64, address));
        }
    }
    None
}

/// What counts the addresses of this kind, and how many there may be.
#[inline(always)]
fn counter(port: &GuestPort, learned: *mut Learned, address: Address) -> (SharedWord, u64) {
    let (word, limit) = if address.is_ipv4() {
        // SAFETY: the pointer is of a map's value, which outlives the program.
        (unsafe { &raw mut (*learned).ipv4 }, u64::from(port.learn_ipv4))
    } else if address.is_link_local_ipv6() {
        // SAFETY: as above.
        (unsafe { &raw mut (*learned).link_local }, limits::LEARNED_LINK_LOCAL)
    } else {
        // SAFETY: as above.
        (unsafe { &raw mut (*learned).ipv6 }, u64::from(port.learn_ipv6))
    };
    // SAFETY: as above; the fields are aligned words.
    (unsafe { SharedWord::new(word) }, limit)
}

/// Whether an address can be a guest's of this network at all.
#[inline(always)]
fn is_learnable(port: &GuestPort, address: Address) -> bool {
    let words = address.to_wire();
    if address.is_ipv4() {
        let first = u32::from_be(address.ipv4_part().to_wire()) >> 24;
        // This network, loopback, multicast, reserved (RFC 6890).
        if first == 0 || first == 127 || first >= 224 {
            return false;
        }
    } else if address.is_link_local_ipv6() {
        // Only the first /64 of fe80::/10 is in use (RFC 4291, 2.5.6).
        return words[0] == 0xfe80_0000_u32.to_be() && words[1] == 0;
    } else if address.is_multicast_ipv6() || words[0] == 0 {
        // Unspecified, loopback, IPv4-compatible are in ::/32.
        return false;
    }
    if port.flags & flags::ANY_SUBNET != 0 {
        return true;
    }
    // Neither the host's own address nor one behind a guest, which have flags.
    matches!(tables::subnet_of(address), Some(Subnet { network, flags: 0 }) if *network == port.network)
}

/// Enters the guest as the holder of an address that nobody holds.
#[inline(always)]
fn hold(bridge: u32, address: Address, mac: Mac, ifindex: u32) -> Option<()> {
    let holder = AddressHolder { mac, seen: now(), learned_at: ifindex, reserved: 0 };
    let key = AddressKey { bridge, address };
    GUARD_ADDRESSES.insert(key, holder, u64::from(BPF_NOEXIST)).ok()
}
