//! Every map of the datapath. Userspace may raise the sizes before load.

use crate::{
    flow::NewFlow, ipv4::Ipv4, ipv6::Ipv6, parse::Packet, reject_ipv4, reject_ipv6,
    route::FibLookup,
};
use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, Queue},
};
use vnet_common::{
    address::{Address, Ipv4Be},
    flow::{
        ExternalPort, FlowKey4, FlowKey6, FlowSlot, FragmentKey, FragmentSlot, GuestUsage,
        HeldFragment, HeldKey, Mapping, MappingKey, PortHolder, Session, SessionCursor,
    },
    forward::{FORWARD_KEY_BYTES, Forward},
    limits,
    migration::Adoption,
    names,
    network::{
        Config, InterfaceKey, Network, NetworkTraffic, Subnet, SubnetKey, TokenBucket, Uplink,
    },
    path::{Path, PathBudget, PathKey},
    port_map::PortMap,
    reason::{DropReason, Handover},
};

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
pub static NETWORKS: Array<Network> = Array::with_max_entries(2 * limits::NETWORKS, 0);

#[map]
pub static BRIDGES: HashMap<InterfaceKey, u32> = HashMap::with_max_entries(2 * limits::NETWORKS, 0);

#[map]
pub static SUBNETS: LpmTrie<SubnetKey, Subnet> =
    LpmTrie::with_max_entries(2 * limits::SUBNETS, BPF_F_NO_PREALLOC);

#[map]
pub static UPLINKS: HashMap<InterfaceKey, Uplink> =
    HashMap::with_max_entries(2 * limits::UPLINKS, 0);

#[map]
pub static FLOWS: HashMap<FlowKey4, FlowSlot> =
    HashMap::with_max_entries(2 * limits::DEFAULT_SESSIONS, 0);

// Not allocated before it is used: hosts without IPv6 flows do not pay for them.
#[map]
pub static FLOWS_IPV6: HashMap<FlowKey6, FlowSlot> =
    HashMap::with_max_entries(2 * limits::DEFAULT_SESSIONS, BPF_F_NO_PREALLOC);

#[map]
pub static SESSIONS: Array<Session> =
    Array::with_max_entries(limits::DEFAULT_SESSIONS, BPF_F_MMAPABLE);

#[map]
pub static FREE_SESSIONS: Queue<u32> = Queue::with_max_entries(limits::DEFAULT_SESSIONS, 0);

#[map]
pub static SESSION_CURSOR: Array<SessionCursor> = Array::with_max_entries(1, 0);

#[map]
pub static MAPPINGS: HashMap<MappingKey, Mapping> =
    HashMap::with_max_entries(limits::DEFAULT_SESSIONS, 0);

#[map]
pub static EXTERNAL_PORTS: HashMap<ExternalPort, PortHolder> =
    HashMap::with_max_entries(limits::DEFAULT_SESSIONS, 0);

#[map]
pub static FORWARDS: LpmTrie<[u8; FORWARD_KEY_BYTES], Forward> =
    LpmTrie::with_max_entries(2 * limits::FORWARDS, BPF_F_NO_PREALLOC);

#[map]
pub static DEPARTURES: HashMap<Address, u64> = HashMap::with_max_entries(limits::DEPARTURES, 0);

#[map]
pub static PORT_MAPS: HashMap<ExternalPort, PortMap> =
    HashMap::with_max_entries(limits::PORT_MAPS, 0);

#[map]
pub static RESERVED_PORTS: Array<PortMap> = Array::with_max_entries(limits::RESERVED_PORTS, 0);

#[map]
pub static PORT_SEARCH: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(limits::PORT_SEARCH_STEPS, 0);

// As many as there may be flows, so that no network's guests can take all entries from another's; not
// allocated before they are used, because few hosts have as many guests.
#[map]
pub static GUESTS: HashMap<Address, GuestUsage> =
    HashMap::with_max_entries(limits::DEFAULT_SESSIONS, BPF_F_NO_PREALLOC);

#[map]
pub static NETWORK_FLOWS: Array<u64> = Array::with_max_entries(limits::NETWORKS, 0);

// Fragments of datagrams in flight, not NAT state: the oldest may go.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentSlot> =
    LruHashMap::with_max_entries(limits::FRAGMENTS, 0);

#[map]
pub static FRAGMENTS_IPV6: LruHashMap<FragmentKey<Address>, FragmentSlot> =
    LruHashMap::with_max_entries(limits::FRAGMENTS, 0);

// What the host does, not NAT state: the oldest may go.
#[map]
pub static HOST_FLOWS: LruHashMap<FlowKey6, u64> =
    LruHashMap::with_max_entries(limits::HOST_FLOWS, 0);

// As `FRAGMENTS`.
#[map]
pub static HELD_FRAGMENTS: LruHashMap<HeldKey, HeldFragment> =
    LruHashMap::with_max_entries(limits::HELD_FRAGMENTS, 0);

// What can be found out again, not NAT state: the oldest may go.
#[map]
pub static PATHS: LruHashMap<PathKey<Ipv4Be>, Path> =
    LruHashMap::with_max_entries(limits::PATHS, 0);

#[map]
pub static PATHS_IPV6: LruHashMap<PathKey<Address>, Path> =
    LruHashMap::with_max_entries(limits::PATHS, 0);

/// As `NEW_FLOW`.
#[map]
pub static PATH: PerCpuArray<Path> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static PATH_BUDGET: PerCpuArray<PathBudget> = PerCpuArray::with_max_entries(1, 0);

/// As `NEW_FLOW`.
#[map]
pub static HELD_FRAGMENT: PerCpuArray<HeldFragment> = PerCpuArray::with_max_entries(1, 0);

// Bound to the maps of a former datapath while its flows are migrated; else nobody looks there.
#[map]
pub static FORMER_FLOWS: HashMap<FlowKey4, FlowSlot> = HashMap::with_max_entries(1, 0);

#[map]
pub static FORMER_FLOWS_IPV6: HashMap<FlowKey6, FlowSlot> = HashMap::with_max_entries(1, 0);

#[map]
pub static FORMER_MAPPINGS: HashMap<MappingKey, Mapping> = HashMap::with_max_entries(1, 0);

#[map]
pub static FORMER_EXTERNAL_PORTS: HashMap<ExternalPort, PortHolder> =
    HashMap::with_max_entries(1, 0);

#[map]
pub static FORMER_FRAGMENTS: LruHashMap<FragmentKey, FragmentSlot> =
    LruHashMap::with_max_entries(1, 0);

#[map]
pub static FORMER_FRAGMENTS_IPV6: LruHashMap<FragmentKey<Address>, FragmentSlot> =
    LruHashMap::with_max_entries(1, 0);

#[map]
pub static FORMER_PROGRAMS: ProgramArray =
    ProgramArray::with_max_entries(names::program::ALL.len() as u32, 0);

#[map]
pub static MIGRATION: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub static ADOPTIONS: Array<Adoption> = Array::with_max_entries(limits::ADOPTIONS, 0);

#[map]
pub static TRAFFIC: PerCpuArray<NetworkTraffic> =
    PerCpuArray::with_max_entries(limits::NETWORKS, 0);

#[map]
pub static DROPS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(limits::NETWORKS * DropReason::PER_NETWORK, 0);

#[map]
pub static HANDOVERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(limits::NETWORKS * Handover::PER_NETWORK, 0);

/// See `tables::begin`; as `NEW_FLOW`.
#[map]
pub static EPOCH_OF_RUN: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Room for what the stack of 512 bytes has no room for: a packet's new flow, and the one that `adopt`
/// enters, which packets interrupt.
#[map]
pub static NEW_FLOW: PerCpuArray<NewFlow> = PerCpuArray::with_max_entries(2, 0);

/// As `NEW_FLOW`.
#[map]
pub static FIB_LOOKUP: PerCpuArray<FibLookup> = PerCpuArray::with_max_entries(1, 0);

/// As `NEW_FLOW`.
#[map]
pub static REJECTION: PerCpuArray<reject_ipv4::Frame> = PerCpuArray::with_max_entries(1, 0);

/// As `NEW_FLOW`.
#[map]
pub static REJECTION_IPV6: PerCpuArray<reject_ipv6::Frame> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static ICMP_ERRORS: PerCpuArray<TokenBucket> =
    PerCpuArray::with_max_entries(1 + limits::ICMP_RECEIVERS, 0);

/// As `NEW_FLOW`.
#[map]
pub static PACKET: PerCpuArray<Packet<Ipv4>> = PerCpuArray::with_max_entries(1, 0);

/// As `NEW_FLOW`.
#[map]
pub static PACKET_IPV6: PerCpuArray<Packet<Ipv6>> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's place for the headers of an IPv4 packet; as `new_flow`.
#[inline(always)]
pub fn packet_ipv4() -> Option<&'static mut Packet<Ipv4>> {
    // SAFETY: the element is this CPU's own until the program ends.
    PACKET.get_ptr_mut(0).map(|packet| unsafe { &mut *packet })
}

/// As `packet_ipv4`.
#[inline(always)]
pub fn packet_ipv6() -> Option<&'static mut Packet<Ipv6>> {
    // SAFETY: the element is this CPU's own until the program ends.
    PACKET_IPV6.get_ptr_mut(0).map(|packet| unsafe { &mut *packet })
}

/// This CPU's place for a new flow; programs on one CPU do not interleave.
#[inline(always)]
pub fn new_flow() -> Option<&'static mut NewFlow> {
    // SAFETY: the element is this CPU's own until the program ends.
    NEW_FLOW.get_ptr_mut(0).map(|new| unsafe { &mut *new })
}

/// The same for `adopt`.
#[inline(always)]
pub fn adopted_flow() -> Option<&'static mut NewFlow> {
    const PLACE: u8 = 1;
    let new = NEW_FLOW.get_ptr_mut(u32::from(PLACE))?;
    // SAFETY: one process at a time runs `adopt`, and a run stays on its CPU.
    let new = unsafe { &mut *new };
    new.place = PLACE;
    Some(new)
}

/// This CPU's place for a fragment that is to be held; as `new_flow`.
#[inline(always)]
pub fn held_fragment() -> Option<&'static mut HeldFragment> {
    // SAFETY: the element is this CPU's own until the program ends.
    HELD_FRAGMENT.get_ptr_mut(0).map(|held| unsafe { &mut *held })
}

/// This CPU's place for a routing look-up; as `new_flow`.
#[inline(always)]
pub fn fib_lookup() -> Option<&'static mut FibLookup> {
    // SAFETY: the element is this CPU's own until the program ends.
    FIB_LOOKUP.get_ptr_mut(0).map(|fib| unsafe { &mut *fib })
}

/// This CPU's place for where a packet goes that goes on as it is; as `new_flow`.
#[inline(always)]
pub fn path() -> Option<&'static mut Path> {
    // SAFETY: the element is this CPU's own until the program ends.
    PATH.get_ptr_mut(0).map(|path| unsafe { &mut *path })
}

/// This CPU's place for an ICMP error; as `new_flow`.
#[inline(always)]
pub fn rejection_ipv4() -> Option<&'static mut reject_ipv4::Frame> {
    // SAFETY: the element is this CPU's own until the program ends.
    REJECTION.get_ptr_mut(0).map(|frame| unsafe { &mut *frame })
}

/// As `rejection_ipv4`.
#[inline(always)]
pub fn rejection_ipv6() -> Option<&'static mut reject_ipv6::Frame> {
    // SAFETY: the element is this CPU's own until the program ends.
    REJECTION_IPV6.get_ptr_mut(0).map(|frame| unsafe { &mut *frame })
}

/// The settings; `None` only if the verifier's formality fails.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}
