//! The elements of a definition: a table.

/// An element: its name, its attributes, what it holds.
pub(super) struct Shape {
    pub name: &'static str,
    pub attributes: &'static [&'static str],
    pub holds: Holds,
    /// Whether it may stand several times in its parent.
    pub repeats: bool,
}

pub(super) enum Holds {
    Elements(&'static [Shape]),
    Text,
    Anything,
}

const fn empty(name: &'static str, attributes: &'static [&'static str]) -> Shape {
    parent(name, attributes, &[])
}

const fn parent(
    name: &'static str,
    attributes: &'static [&'static str],
    children: &'static [Shape],
) -> Shape {
    Shape { name, attributes, holds: Holds::Elements(children), repeats: false }
}

const fn text(name: &'static str) -> Shape {
    Shape { name, attributes: &[], holds: Holds::Text, repeats: false }
}

const fn many(shape: Shape) -> Shape {
    Shape { repeats: true, ..shape }
}

const LEASE: Shape = empty("lease", &["expiry", "unit"]);
const RATE: &[&str] = &["average", "peak", "burst", "floor"];
const BANDWIDTH: Shape =
    // A second one of these is an error in libvirt, and so reported elsewhere.
    parent(
        "bandwidth",
        &["classID"],
        &[many(empty("inbound", RATE)), many(empty("outbound", RATE))],
    );
const VLAN: Shape = parent("vlan", &["trunk"], &[many(empty("tag", &["id", "nativeMode"]))]);
const VIRTUAL_PORT: Shape = parent(
    "virtualport",
    &["type"],
    &[empty(
        "parameters",
        &["managerid", "typeid", "typeidversion", "instanceid", "profileid", "interfaceid"],
    )],
);

const FORWARD: Shape = parent(
    "forward",
    &["mode", "dev", "managed"],
    &[
        // A second one of these is an error in libvirt, and so reported elsewhere.
        many(parent(
            "nat",
            &["ipv6"],
            &[many(empty("address", &["start", "end"])), many(empty("port", &["start", "end"]))],
        )),
        many(empty("interface", &["dev", "connections"])),
        many(empty(
            "address",
            &["type", "domain", "bus", "slot", "function", "multifunction", "connections"],
        )),
        many(empty("pf", &["dev"])),
        empty("driver", &["name", "model"]),
    ],
);

const DNS: Shape = parent(
    "dns",
    &["enable", "forwardPlainNames"],
    &[
        many(empty("forwarder", &["addr", "domain"])),
        many(empty("txt", &["name", "value"])),
        many(empty(
            "srv",
            &["service", "protocol", "domain", "target", "port", "priority", "weight"],
        )),
        many(parent("host", &["ip"], &[many(text("hostname"))])),
    ],
);

const IP: Shape = parent(
    "ip",
    &["address", "netmask", "prefix", "family", "localPtr"],
    &[
        empty("tftp", &["root"]),
        parent(
            "dhcp",
            &[],
            &[
                many(parent("range", &["start", "end"], &[LEASE])),
                many(parent("host", &["mac", "id", "name", "ip"], &[LEASE])),
                empty("bootp", &["file", "server"]),
            ],
        ),
    ],
);

pub(super) static NETWORK: Shape = parent(
    "network",
    &["connections", "ipv6", "trustGuestRxFilters"],
    &[
        text("name"),
        text("uuid"),
        text("title"),
        text("description"),
        Shape { holds: Holds::Anything, ..empty("metadata", &[]) },
        FORWARD,
        empty("bridge", &["name", "zone", "stp", "delay", "macTableManager"]),
        empty("mtu", &["size"]),
        empty("mac", &["address"]),
        VIRTUAL_PORT,
        many(parent(
            "portgroup",
            &["name", "default", "trustGuestRxFilters"],
            &[VIRTUAL_PORT, BANDWIDTH, VLAN],
        )),
        empty("domain", &["name", "localOnly", "register"]),
        DNS,
        BANDWIDTH,
        VLAN,
        empty("port", &["isolated"]),
        many(IP),
        many(empty("route", &["family", "address", "netmask", "prefix", "gateway", "metric"])),
    ],
);

/// `<dnsmasq:options>`, in the namespace [`super::DNSMASQ`].
pub(super) static DNSMASQ_OPTIONS: Shape =
    parent("options", &[], &[many(empty("option", &["value"]))]);

/// `<vnet:options>`, in the namespace [`super::OPTIONS`].
pub(super) static VNET_OPTIONS: Shape = parent(
    "options",
    &[],
    &[
        many(empty("uplink", &["dev"])),
        empty("masquerade", &["ipv6"]),
        empty("filtering", &["mode"]),
        empty("limits", &["flows", "ports", "new-flows", "network-flows"]),
        empty("timeouts", &["tcp", "tcp-transitory", "udp", "icmp", "other", "port-hold-down"]),
        empty("guard", &["mac", "addresses", "servers", "tags", "from"]),
        many(parent("guest", &["mac", "guard"], &[many(empty("address", &["ip"]))])),
        many(empty("forward", &["protocol", "address", "port", "last-port", "to", "to-port"])),
    ],
);
