//! Names of programs, maps and marks.

/// Counts changes of what the maps' bytes mean. Flows in maps of an earlier layout are migrated
/// ([`crate::former`]), those of a later one are left alone.
pub const LAYOUT: u32 = 2;

/// The mark on packets that vnet has judged and forwarded itself, between its hook on the way in
/// and its hook on the way out, which takes it off. Spells "vnet".
pub const FORWARDED_MARK: u32 = 0x766e_6574;

/// The mark on packets that have been translated towards a guest and go there through the host's
/// stack. It lets them pass at bridges only. Spells "vneb".
pub const INBOUND_MARK: u32 = 0x766e_6562;

/// Programs by their name in the object.
pub mod program {
    /// TC ingress of a network's bridge.
    pub const BRIDGE_INGRESS: &str = "bridge_ingress";
    /// TC egress of a network's bridge.
    pub const BRIDGE_EGRESS: &str = "bridge_egress";
    /// TC ingress of an uplink with Ethernet headers.
    pub const UPLINK_INGRESS: &str = "uplink_ingress";
    /// TC egress of an uplink with Ethernet headers.
    pub const UPLINK_EGRESS: &str = "uplink_egress";
    /// TC ingress of an uplink without link-layer headers.
    pub const UPLINK_INGRESS_RAW: &str = "uplink_ingress_raw";
    /// TC egress of an uplink without link-layer headers.
    pub const UPLINK_EGRESS_RAW: &str = "uplink_egress_raw";
    /// TC ingress of a guest's port.
    pub const PORT_GUARD: &str = "port_guard";
    /// TC ingress of a guest's port that is not guarded: the short way out.
    pub const PORT_SHORTCUT: &str = "port_shortcut";
    /// The expiry of flows, run by userspace.
    pub const SWEEP: &str = "sweep";

    /// Enters flows of a former datapath, run by userspace. Loaded for a migration alone.
    pub const ADOPT: &str = "adopt";

    /// Every program of the object that is loaded always. The place of one is its index in
    /// [`super::map::FORMER_PROGRAMS`].
    pub const ALL: [&str; 9] = [
        BRIDGE_INGRESS,
        BRIDGE_EGRESS,
        UPLINK_INGRESS,
        UPLINK_EGRESS,
        UPLINK_INGRESS_RAW,
        UPLINK_EGRESS_RAW,
        PORT_GUARD,
        SWEEP,
        PORT_SHORTCUT,
    ];

    /// Native XDP of an uplink, or of a bond that is one.
    pub const UPLINK_XDP: &str = "uplink_xdp";
    /// Native XDP of a NIC or bond that is a port of a bridge of guests.
    pub const BRIDGED_XDP: &str = "bridged_xdp";

    /// The XDP programs of the object.
    pub const XDP: [&str; 2] = [UPLINK_XDP, BRIDGED_XDP];

    /// The program at a hook that a word names.
    #[must_use]
    pub fn named(word: &str) -> Option<&'static str> {
        ALL.into_iter().chain(XDP).find(|program| *program == word)
    }
}

/// Maps by their name in the object and under bpffs.
pub mod map {
    /// One [`crate::network::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// [`crate::network::Network::index`] to [`crate::network::Network`].
    pub const NETWORKS: &str = "NETWORKS";
    /// [`crate::network::InterfaceKey`] of a bridge to network slot (`u32`).
    pub const BRIDGES: &str = "BRIDGES";
    /// Prefix of a [`crate::network::SubnetKey`] to [`crate::network::Subnet`].
    pub const SUBNETS: &str = "SUBNETS";
    /// [`crate::network::InterfaceKey`] to [`crate::network::Uplink`].
    pub const UPLINKS: &str = "UPLINKS";
    /// [`crate::flow::FlowKey`] to [`crate::flow::FlowSlot`].
    pub const FLOWS: &str = "FLOWS";
    /// [`crate::flow::FlowKey6`] to [`crate::flow::FlowSlot`].
    pub const FLOWS_IPV6: &str = "FLOWS_IPV6";
    /// Slot to [`crate::flow::Session`].
    pub const SESSIONS: &str = "SESSIONS";
    /// Slots that were used and are free again.
    pub const FREE_SESSIONS: &str = "FREE_SESSIONS";
    /// One [`crate::flow::SessionCursor`].
    pub const SESSION_CURSOR: &str = "SESSION_CURSOR";
    /// [`crate::flow::MappingKey`] to [`crate::flow::Mapping`].
    pub const MAPPINGS: &str = "MAPPINGS";
    /// [`crate::flow::ExternalPort`] to [`crate::flow::PortHolder`].
    pub const EXTERNAL_PORTS: &str = "EXTERNAL_PORTS";
    /// [`crate::address::Address`] of a guest to when it went (`u64`, nanoseconds of
    /// `CLOCK_MONOTONIC_COARSE`).
    pub const DEPARTURES: &str = "DEPARTURES";
    /// Prefix of a [`crate::forward::ForwardKey`] to [`crate::forward::Forward`].
    pub const FORWARDS: &str = "FORWARDS";
    /// [`crate::flow::ExternalPort`] without a port to [`crate::port_map::PortMap`].
    pub const PORT_MAPS: &str = "PORT_MAPS";
    /// Two [`crate::port_map::PortMap`]s: see [`crate::port_map::reserved_ports_of`].
    pub const RESERVED_PORTS: &str = "RESERVED_PORTS";
    /// Steps of a search for a port to searches (`u64`), per CPU.
    pub const PORT_SEARCH: &str = "PORT_SEARCH";
    /// [`crate::address::Address`] to [`crate::flow::GuestUsage`].
    pub const GUESTS: &str = "GUESTS";
    /// Network slot to the session slots that its flows use (`u64`).
    pub const NETWORK_FLOWS: &str = "NETWORK_FLOWS";
    /// [`crate::flow::FlowKey6`] of the remote's packets to when the host last sent there (`u64`,
    /// nanoseconds of `CLOCK_MONOTONIC_COARSE`).
    pub const HOST_FLOWS: &str = "HOST_FLOWS";
    /// [`crate::flow::FragmentKey`] to [`crate::flow::FragmentSlot`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// As `FRAGMENTS`, of IPv6.
    pub const FRAGMENTS_IPV6: &str = "FRAGMENTS_IPV6";
    /// [`crate::flow::HeldKey`] to [`crate::flow::HeldFragment`].
    pub const HELD_FRAGMENTS: &str = "HELD_FRAGMENTS";
    /// Network slot to [`crate::network::NetworkTraffic`], per CPU.
    pub const TRAFFIC: &str = "TRAFFIC";
    /// Network slot and [`crate::reason::DropReason`] to packets, per CPU.
    pub const DROPS: &str = "DROPS";
    /// Network slot and [`crate::reason::Handover`] to packets, per CPU.
    pub const HANDOVERS: &str = "HANDOVERS";
    /// [`crate::network::TokenBucket`]s for ICMP errors, per CPU: the first for all, then one for each
    /// group of receivers.
    pub const ICMP_ERRORS: &str = "ICMP_ERRORS";
    /// Interface index to [`crate::guard::GuestPort`].
    pub const GUARD_PORTS: &str = "GUARD_PORTS";
    /// Interface index to [`crate::guard::Learned`].
    pub const GUARD_LEARNED: &str = "GUARD_LEARNED";
    /// [`crate::guard::MacKey`] to the interface index of a port (`u32`).
    pub const GUARD_MACS: &str = "GUARD_MACS";
    /// [`crate::guard::AddressKey`] to [`crate::guard::AddressHolder`].
    pub const GUARD_ADDRESSES: &str = "GUARD_ADDRESSES";
    /// Prefix of a [`crate::guard::RouteKey`] to the [`crate::address::Address`] of its gateway.
    pub const GUARD_ROUTES: &str = "GUARD_ROUTES";
    /// Interface index to [`crate::shortcut::BridgePort`].
    pub const BRIDGE_PORTS: &str = "BRIDGE_PORTS";
    /// [`crate::guard::MacKey`] to [`crate::shortcut::Station`].
    pub const STATIONS: &str = "STATIONS";
    /// Network slot to the [`crate::guard::Mac`] of its bridge.
    pub const BRIDGE_ADDRESSES: &str = "BRIDGE_ADDRESSES";
    /// One counter (`u32`) of stations that the programs have seen at another port than before: an inbound
    /// way is good while it is what it was.
    pub const MOVES: &str = "MOVES";
    /// Interface index of a port to itself, for redirects of XDP.
    pub const XDP_PORTS: &str = "XDP_PORTS";
    /// Interface index at which frames of an uplink come in to [`crate::shortcut::XdpUplink`].
    pub const XDP_UPLINKS: &str = "XDP_UPLINKS";
    /// The same of interfaces with a small index, by that; no uplink is a zeroed one.
    pub const XDP_UPLINKS_BY_INDEX: &str = "XDP_UPLINKS_BY_INDEX";
    /// [`crate::path::PathKey`] to [`crate::path::Path`].
    pub const PATHS: &str = "PATHS";
    /// As `PATHS`, of IPv6.
    pub const PATHS_IPV6: &str = "PATHS_IPV6";
    /// One time (`u64`), nanoseconds of `CLOCK_MONOTONIC`, until which short ways hold: userspace moves it on
    /// while it watches the bridges. 0 where there are none.
    pub const SHORTCUT_LEASE: &str = "SHORTCUT_LEASE";
    /// One [`crate::shortcut::XdpMode`] (`u32`).
    pub const XDP_MODE: &str = "XDP_MODE";

    /// [`crate::migration::Phase`] (`u32`), while flows are migrated.
    pub const MIGRATION: &str = "MIGRATION";
    /// The index of a program in [`super::program::ALL`] to the former one of that name.
    pub const FORMER_PROGRAMS: &str = "FORMER_PROGRAMS";
    /// [`crate::migration::Adoption`]s for one run of the program `adopt`.
    pub const ADOPTIONS: &str = "ADOPTIONS";

    /// Maps of the object that are bound to those of a former datapath during a migration: their names
    /// there.
    pub const FORMER: [(&str, &str); 6] = [
        ("FORMER_FLOWS", FLOWS),
        ("FORMER_FLOWS_IPV6", FLOWS_IPV6),
        ("FORMER_MAPPINGS", MAPPINGS),
        ("FORMER_EXTERNAL_PORTS", EXTERNAL_PORTS),
        ("FORMER_FRAGMENTS", FRAGMENTS),
        ("FORMER_FRAGMENTS_IPV6", FRAGMENTS_IPV6),
    ];

    /// Maps that a migration makes anew: flows and what they use. All others are taken as they are.
    pub const OF_FLOWS: [&str; 13] = [
        CONFIG,
        FLOWS,
        FLOWS_IPV6,
        SESSIONS,
        FREE_SESSIONS,
        SESSION_CURSOR,
        MAPPINGS,
        EXTERNAL_PORTS,
        PORT_MAPS,
        GUESTS,
        NETWORK_FLOWS,
        FRAGMENTS,
        FRAGMENTS_IPV6,
    ];

    /// Maps that came after others of their layout: a datapath that is taken over may lack them.
    pub const LATER: [&str; 11] = [
        BRIDGE_PORTS,
        STATIONS,
        BRIDGE_ADDRESSES,
        MOVES,
        XDP_PORTS,
        XDP_MODE,
        XDP_UPLINKS,
        XDP_UPLINKS_BY_INDEX,
        PATHS,
        PATHS_IPV6,
        SHORTCUT_LEASE,
    ];

    /// Every map that userspace opens by name.
    pub const ALL: [&str; 43] = [
        CONFIG,
        NETWORKS,
        BRIDGES,
        SUBNETS,
        UPLINKS,
        FLOWS,
        FLOWS_IPV6,
        SESSIONS,
        FREE_SESSIONS,
        SESSION_CURSOR,
        MAPPINGS,
        EXTERNAL_PORTS,
        DEPARTURES,
        FORWARDS,
        PORT_MAPS,
        RESERVED_PORTS,
        PORT_SEARCH,
        GUESTS,
        NETWORK_FLOWS,
        HOST_FLOWS,
        FRAGMENTS,
        FRAGMENTS_IPV6,
        HELD_FRAGMENTS,
        TRAFFIC,
        DROPS,
        HANDOVERS,
        ICMP_ERRORS,
        GUARD_PORTS,
        GUARD_LEARNED,
        GUARD_MACS,
        GUARD_ADDRESSES,
        GUARD_ROUTES,
        BRIDGE_PORTS,
        STATIONS,
        BRIDGE_ADDRESSES,
        MOVES,
        XDP_PORTS,
        XDP_MODE,
        XDP_UPLINKS,
        XDP_UPLINKS_BY_INDEX,
        PATHS,
        PATHS_IPV6,
        SHORTCUT_LEASE,
    ];
}
