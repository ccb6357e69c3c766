//! Sizes of tables and bounds of loops.

/// Networks of one instance; slot 0 is "no network".
pub const NETWORKS: u32 = 1024;
/// Subnets of all networks and addresses of the host.
pub const SUBNETS: u32 = 16384;
/// Addresses of the host whose use by others is noticed.
pub const OWN_ADDRESSES: usize = 4096;
/// Interfaces towards outside.
pub const UPLINKS: u32 = 256;
/// Devices at which frames of uplinks come in: these, and the slaves of bonds.
pub const XDP_UPLINKS: u32 = 1024;
/// Devices with an index below this are found without a hash.
pub const XDP_UPLINKS_BY_INDEX: u32 = 1024;
/// Addresses of one uplink that the masquerade may choose from.
pub const ADDRESSES_PER_UPLINK: usize = 8;
/// Live flows of all guests, unless set.
pub const DEFAULT_SESSIONS: u32 = 1 << 18;
/// Live flows of one guest, unless set: less than half of the ports that one uplink address has.
pub const DEFAULT_FLOWS_PER_GUEST: u32 = 1 << 14;
/// Prefixes of forwarded ports on all addresses.
pub const FORWARDS: u32 = 1 << 16;
/// Addresses of guests that have gone, until their flows are ended.
pub const DEPARTURES: u32 = 1 << 12;
/// Flows of the host itself that no socket tells of, with one remote each.
pub const HOST_FLOWS: u32 = 1 << 14;
/// How old the note of such a flow may be before a packet renews it, in nanoseconds.
pub const HOST_FLOW_REFRESH_NS: u64 = 1_000_000_000;
/// Kinds of packets that go on as they are and whose way is remembered, of each family.
pub const PATHS: u32 = 1 << 15;
/// Entries that one CPU makes in a window, and the length of that: two to the power of so many nanoseconds (4 ms).
pub const PATHS_PER_WINDOW: u32 = 16;
/// See [`PATHS_PER_WINDOW`].
pub const PATH_WINDOW_BITS: u32 = 22;
/// Fragmented datagrams whose first fragment is remembered.
pub const FRAGMENTS: u32 = 1 << 12;
/// How long a first fragment is remembered, in nanoseconds (RFC 791 recommends 15 s).
pub const FRAGMENT_LIFETIME_NS: u64 = 15_000_000_000;
/// Fragments that are kept because they came before the first of their datagram: about 1 MiB.
pub const HELD_FRAGMENTS: u32 = 512;
/// Of one datagram.
pub const HELD_PER_DATAGRAM: u32 = 8;
/// Bytes of the longest frame that is kept.
pub const HELD_FRAME_BYTES: usize = 2048;
/// How long they are kept, in nanoseconds: what only overtook another packet is not late by more.
pub const HELD_LIFETIME_NS: u64 = 2_000_000_000;
/// External addresses, each with one protocol, whose taken ports are kept in a map of bits. Ports of
/// any more are tried at random.
pub const PORT_MAPS: u32 = 1024;
/// Maps of ports that the host keeps for itself: see [`crate::port_map::reserved_ports_of`].
pub const RESERVED_PORTS: u32 = 2;
/// Free ports tried for one new mapping: a socket of the host, or another CPU, may have each.
pub const PORT_ATTEMPTS: u32 = 16;
/// Ports tried for one flow that has to share its port with flows to other remotes.
pub const SHARED_PORT_ATTEMPTS: u32 = 16;
/// Counters of the steps that searches for ports take; the last one is for as many or more.
pub const PORT_SEARCH_STEPS: u32 = 64;
/// Session slots that one run of the sweep looks at.
pub const SWEEP_SLICE: u32 = 32;
/// Flows of a former datapath that one run of the program `adopt` enters.
pub const ADOPTIONS: u32 = 32;
/// Session slots that a new flow looks at.
pub const SWEEP_ON_DEMAND: u32 = 4;
/// How long an ended slot rests, so that no packet still reads it, in nanoseconds.
pub const DRAIN_NS: u64 = 100_000_000;
/// ICMP errors that one CPU sends per second.
pub const ICMP_ERRORS_PER_SECOND: u64 = 1000;
/// ICMP errors that one CPU sends at once after a pause.
pub const ICMP_ERROR_BURST: u64 = 64;
/// Of these, ICMP errors per second to one receiver.
pub const ICMP_ERRORS_PER_RECEIVER: u64 = 100;
/// Of these, ICMP errors at once to one receiver.
pub const ICMP_RECEIVER_BURST: u64 = 16;
/// Groups of receivers of ICMP errors, told apart by a hash of their address.
pub const ICMP_RECEIVERS: u32 = 256;
/// Guarded ports of guests.
pub const GUEST_PORTS: u32 = 1 << 12;
/// IPv4 addresses that the guard learns of a port: libvirt's `clean-traffic` learns one, too.
pub const LEARNED_IPV4: u16 = 1;
/// Global IPv6 addresses that the guard learns of a port: a stable one and temporary ones (RFC 8981).
pub const LEARNED_IPV6: u16 = 8;
/// How long a learned IPv6 address rests before a new one of the same port may take its place, in
/// nanoseconds: temporary addresses are replaced every day (RFC 8981, section 3.4).
pub const LEARNED_IDLE_NS: u64 = 60_000_000_000;
/// Link-local IPv6 addresses that the guard learns of a port besides that of its MAC address.
pub const LEARNED_LINK_LOCAL: u64 = 4;
/// Addresses that one guest may be given.
pub const ADDRESSES_PER_GUEST: usize = 32;
/// Addresses that guests hold, given and learned.
pub const HELD_ADDRESSES: u32 = 1 << 17;
/// Prefixes behind guests.
pub const GUEST_ROUTES: u32 = 1 << 12;
/// IPv6 extension headers that the guard follows.
pub const GUARD_EXTENSION_HEADERS: u32 = 8;
/// Options of a neighbour discovery message that the guard reads.
pub const GUARD_NEIGHBOUR_OPTIONS: u32 = 8;
/// Ports of bridges that packets may pass by, and slaves of bonds among them.
pub const BRIDGE_PORTS: u32 = 1 << 14;
/// MAC addresses at all bridges that frames may pass by to.
pub const STATIONS: u32 = 1 << 16;
/// Of these, at one port of a guest: one that makes up addresses must not fill the table.
pub const STATIONS_PER_GUEST: usize = 64;
/// Of these, at one port that leads outside.
pub const STATIONS_PER_UPLINK: usize = 4096;
