use super::*;
use crate::instance::state::XdpState;
use crate::plan::{LongWay, XdpSetting};
use crate::services::{Offer, ServedBy};

fn outcome(reason: DropReason, packets: u64) -> Outcome {
    Outcome { reason: reason.id(), description: reason.description(), packets }
}

fn handover(reason: Handover, packets: u64) -> Outcome {
    Outcome { reason: reason.id(), description: reason.description(), packets }
}

fn hook(
    interface: &str,
    ifindex: u32,
    direction: &str,
    program: &str,
    program_id: u32,
) -> HookState {
    HookState {
        interface: interface.to_owned(),
        ifindex,
        direction: direction.to_owned(),
        program: program.to_owned(),
        program_id,
        mechanism: "tcx".to_owned(),
    }
}

fn network(slot: u16, name: &str, bridge: &str, subnets: &[&str]) -> NetworkStatus {
    NetworkStatus {
        network: NetworkState {
            slot,
            name: name.to_owned(),
            mode: "nat".to_owned(),
            mode_ipv6: "route".to_owned(),
            bridge: bridge.to_owned(),
            bridge_ifindex: 40 + u32::from(slot),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            masquerade: vec![],
        },
        flows: 0,
        limits: None,
        outbound: Counts::default(),
        inbound: Counts::default(),
        outcomes: Outcomes::default(),
    }
}

fn most(used: u32, limit: u32, guest: &str) -> GuestLimit {
    GuestLimit { used, limit, guest: Some(guest.parse().unwrap()) }
}

fn status() -> Status {
    let mut default = network(1, "default", "virbr0", &["192.168.122.0/24", "2001:db8:7::/64"]);
    default.network.masquerade = vec!["2001:db8:7::1".parse().unwrap()];
    default.flows = 11;
    default.limits = Some(Limits {
        flows: Limit { used: 14, limit: 196_608 },
        guest_flows: most(9, 16_384, "192.168.122.10"),
        guest_ports: most(480, 500, "192.168.122.11"),
        guest_new_flows_per_second: Some(500),
    });
    let mut lab = network(2, "lab", "br-lab", &["10.7.0.0/16"]);
    lab.limits = Some(Limits {
        flows: Limit { used: 0, limit: 262_144 },
        guest_flows: GuestLimit { used: 0, limit: 16_384, guest: None },
        guest_ports: GuestLimit { used: 0, limit: 16_384, guest: None },
        guest_new_flows_per_second: None,
    });
    default.outbound = Counts { packets: 123_456, bytes: 9_876_543_210 };
    default.inbound = Counts { packets: 9_999, bytes: 14_000_000 };
    default.outcomes = Outcomes {
        drops: vec![outcome(DropReason::SpoofedSource, 3), outcome(DropReason::NoFlow, 12_345)],
        handovers: vec![handover(Handover::OverMtu, 7)],
    };
    Status {
        instance: "default".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4711,
        daemon_running: true,
        started: 1_700_000_000,
        uptime_seconds: 7_500,
        flows: FlowTable { live: 12, limit: 262_144, expired: 340 },
        hooks: vec![
            hook("virbr0", 41, "ingress", "bridge_ingress", 101),
            hook("virbr0", 41, "egress", "bridge_egress", 102),
            hook("enp1s0", 2, "ingress", "uplink_ingress", 1103),
        ],
        networks: vec![default, lab],
        uplinks: vec![UplinkState {
            interface: "enp1s0".to_owned(),
            ifindex: 2,
            addresses: ["198.51.100.1", "198.51.100.2", "2001:db8::2"]
                .map(|address| address.parse().unwrap())
                .to_vec(),
        }],
        shortcut: ShortcutState {
            on: true,
            setting: XdpSetting::Auto,
            xdp: vec![
                XdpState {
                    interface: "enp1s0".to_owned(),
                    ifindex: 2,
                    program: "uplink_xdp".to_owned(),
                    program_id: Some(1104),
                    reason: None,
                },
                XdpState {
                    interface: "enp1s0.7".to_owned(),
                    ifindex: 3,
                    program: "uplink_xdp".to_owned(),
                    program_id: None,
                    reason: Some("VLAN devices have no native XDP".to_owned()),
                },
            ],
            long_ways: vec![
                LongWay {
                    bridge: "br-lab".to_owned(),
                    port: None,
                    reason: "it filters VLANs".to_owned(),
                },
                LongWay {
                    bridge: "virbr0".to_owned(),
                    port: Some("vnet3".to_owned()),
                    reason: "it is isolated".to_owned(),
                },
            ],
        },
        services: vec![
            ServiceState {
                network: "default".to_owned(),
                bridge: "virbr0".to_owned(),
                state: ServedBy::Vnet,
                process: Some(4712),
                serves: vec![Offer::Dhcp, Offer::RouterAdvertisements, Offer::Dns],
                reason: None,
            },
            ServiceState {
                network: "lab".to_owned(),
                bridge: "br-lab".to_owned(),
                state: ServedBy::Other,
                process: None,
                serves: vec![],
                reason: Some("somebody else serves DHCP (UDP port 67)".to_owned()),
            },
        ],
        no_network: Outcomes {
            drops: vec![outcome(DropReason::NoNetwork, 1)],
            handovers: vec![handover(Handover::NoFlow, 55)],
        },
    }
}

#[test]
fn the_table_shows_everything() {
    assert_eq!(
        status().table(),
        "\
Instance  default, vnet 0.1.0
Daemon    process 4711
Uptime    2h05m
Flows     12 of 262144, 340 expired

Hooks
INTERFACE  HOOK     BY   PROGRAM         PROGRAM ID
virbr0     ingress  tcx  bridge_ingress         101
virbr0     egress   tcx  bridge_egress          102
enp1s0     ingress  tcx  uplink_ingress        1103

Networks
NETWORK  MODE              BRIDGE  SUBNETS           FLOWS  PACKETS  BYTES  PACKETS  BYTES  DROPS
                                                                OUT    OUT       IN     IN
default  nat, IPv6 routed  virbr0  192.168.122.0/24     11     123k  9.87G     9999  14.0M  12.3k
                                   2001:db8:7::/64
lab      nat               br-lab  10.7.0.0/16           0        0      0        0      0      0

Limits of masqueraded networks, and what the guest with most uses
NETWORK         FLOWS    FLOWS OF    PORTS OF  NEW FLOWS OF
                        ONE GUEST   ONE GUEST  ONE A SECOND
default  14 of 196608  9 of 16384  480 of 500           500
lab       0 of 262144  0 of 16384  0 of 16384           any

DHCP and DNS
NETWORK  BRIDGE  SERVED BY              WHAT, OR WHY NOT
default  virbr0  dnsmasq, process 4712  DHCP, RA, DNS
lab      br-lab  somebody else          somebody else serves DHCP (UDP port 67)

Uplinks
INTERFACE  ADDRESSES
enp1s0     198.51.100.1, 198.51.100.2, 2001:db8::2

XDP (--xdp auto)
INTERFACE  PACKETS GO BY      WHY NOT BY XDP
enp1s0     native XDP and TC  -
enp1s0.7   TC alone           VLAN devices have no native XDP

Packets that take the long way through their bridge
BRIDGE  PORTS  WHY
br-lab  all    it filters VLANs
virbr0  vnet3  it is isolated

Bridges where guests of NAT networks take the bridge's address
INTERFACE  ADDRESSES
virbr0     2001:db8:7::1

Drops
PACKETS  NETWORK  REASON          MEANING
      3  default  spoofed-source  the source address is not of the network it came from
  12.3k  default  no-flow         the end of a connection that is not known
      1  (none)   no-network      the bridge belongs to no network of a definition

Left to the host's own stack (normal)
PACKETS  NETWORK  REASON    MEANING
      7  default  over-mtu  larger than the way takes: the stack fragments or sends the ICMP error
     55  (none)   no-flow   a packet from outside that belongs to no flow: the host's own
"
    );
}

#[test]
fn an_idle_instance_without_a_daemon_says_so() {
    let idle = Status {
        daemon_running: false,
        flows: FlowTable { live: 0, limit: 64, expired: 0 },
        hooks: vec![],
        networks: vec![],
        services: vec![],
        uplinks: vec![],
        shortcut: ShortcutState::default(),
        no_network: Outcomes::default(),
        ..status()
    };
    assert_eq!(
        idle.table(),
        "\
Instance  default, vnet 0.1.0
Daemon    daemon gone (was process 4711), datapath still in place
Uptime    2h05m
Flows     0 of 64

Hooks
none

Networks
none

DHCP and DNS
none

Uplinks
none

Short ways are off (`vnet apply --short-ways on`)

Drops
none

Left to the host's own stack (normal)
none
"
    );
}

#[test]
fn no_line_is_longer_than_100_characters() {
    let mut wide = status();
    let network = &mut wide.networks[0];
    network.network.name = "a-network-with-quite-a-long-name".to_owned();
    network.network.mode = "nat".to_owned();
    network.network.bridge = "br-fifteen-char".to_owned();
    network.network.subnets = vec!["2001:db8:1234:5678:9abc::/80".parse().unwrap()];
    let full = Counts { packets: u64::MAX, bytes: u64::MAX };
    let most = most(u32::MAX, u32::MAX, "2001:db8::1");
    network.limits = Some(Limits {
        flows: Limit { used: u64::from(u32::MAX), limit: u32::MAX },
        guest_flows: most,
        guest_ports: most,
        guest_new_flows_per_second: Some(u32::MAX),
    });
    (network.flows, network.outbound, network.inbound) = (123_456, full, full);
    network.outcomes.drops =
        DropReason::ALL.iter().map(|reason| outcome(*reason, 123_456)).collect();
    network.outcomes.handovers =
        Handover::ALL.iter().map(|reason| handover(*reason, 123_456)).collect();
    for line in wide.table().lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn json_has_raw_numbers_and_stable_names() {
    let json: serde_json::Value = serde_json::to_value(status()).unwrap();
    assert_eq!(json["instance"], "default");
    assert_eq!(json["daemon_running"], true);
    assert_eq!(json["flows"], serde_json::json!({"live": 12, "limit": 262_144, "expired": 340}));
    assert_eq!(
        json["networks"][0],
        serde_json::json!({
            "slot": 1,
            "name": "default",
            "mode": "nat",
            "mode_ipv6": "route",
            "bridge": "virbr0",
            "bridge_ifindex": 41,
            "subnets": ["192.168.122.0/24", "2001:db8:7::/64"],
            "masquerade": ["2001:db8:7::1"],
            "flows": 11,
            "limits": {
                "flows": {"used": 14, "limit": 196_608},
                "guest_flows": {"used": 9, "limit": 16_384, "guest": "192.168.122.10"},
                "guest_ports": {"used": 480, "limit": 500, "guest": "192.168.122.11"},
                "guest_new_flows_per_second": 500
            },
            "outbound": {"packets": 123_456, "bytes": 9_876_543_210_u64},
            "inbound": {"packets": 9_999, "bytes": 14_000_000},
            "drops": [
                {
                    "reason": "spoofed-source",
                    "description": "the source address is not of the network it came from",
                    "packets": 3
                },
                {
                    "reason": "no-flow",
                    "description": "the end of a connection that is not known",
                    "packets": 12_345
                }
            ],
            "handovers": [{
                "reason": "over-mtu",
                "description":
                    "larger than the way takes: the stack fragments or sends the ICMP error",
                "packets": 7
            }]
        })
    );
    assert_eq!(
        json["services"][0],
        serde_json::json!({
            "network": "default",
            "bridge": "virbr0",
            "state": "vnet",
            "process": 4712,
            "serves": ["dhcp", "router-advertisements", "dns"],
            "reason": null
        })
    );
    assert_eq!(json["no_network"]["drops"][0]["reason"], "no-network");
    assert_eq!(json["hooks"][2]["program_id"], 1103);
}
