use bytemuck::Zeroable as _;
use vnet_common::flow::Traffic;

use super::*;
use crate::instance::state::{NetworkState, UplinkState};

const SECOND: u64 = 1_000_000_000;

fn state() -> State {
    let network = |slot, name: &str| NetworkState {
        slot,
        name: name.to_owned(),
        mode: "nat".to_owned(),
        mode_ipv6: "route".to_owned(),
        bridge: format!("br-{name}"),
        bridge_ifindex: 38 + u32::from(slot),
        subnets: vec![],
        masquerade: vec![],
    };
    State {
        version: "0.1.0".to_owned(),
        instance: "default".to_owned(),
        pid: 1,
        started: 0,
        pins: "/nowhere".into(),
        flow_limit: 64,
        networks: vec![network(1, "default"), network(2, "lab")],
        uplinks: vec![UplinkState {
            interface: "enp1s0".to_owned(),
            ifindex: 2,
            addresses: vec![],
        }],
        hooks: vec![],
        guests: vec![],
        services: vec![],
        shortcut: crate::instance::state::ShortcutState::default(),
        layout: 1,
    }
}

fn session(
    ip_protocol: u8,
    inside: (&str, u16),
    outside: (&str, u16),
    remote: (&str, u16),
) -> Session {
    let address = |text: &str| Address::from_addr(text.parse().unwrap());
    Session {
        protocol: ip_protocol,
        inside: address(inside.0),
        inside_port: PortBe::from_host(inside.1),
        external: address(outside.0),
        external_port: PortBe::from_host(outside.1),
        remote: address(remote.0),
        remote_port: PortBe::from_host(remote.1),
        network: 1,
        uplink_ifindex: 2,
        since: 100 * SECOND,
        last_outbound: 150 * SECOND,
        ..Session::zeroed()
    }
}

/// The flows of four sessions at second 200: TCP, UDP, ICMP, and GRE of a network that is gone.
fn flows() -> Vec<Flow> {
    let tcp = Session {
        flags: FLAG_FORWARDED | FLAG_FROM_OUTSIDE | FLAG_HAIRPIN,
        state: tcp::State::Established as u8,
        last_inbound: 199 * SECOND + 1,
        outbound: Traffic { packets: 12, bytes: 1_200 },
        inbound: Traffic { packets: 123_456, bytes: 181_000_000 },
        ..session(6, ("192.168.122.10", 40_000), ("198.51.100.1", 40_000), ("203.0.113.9", 80))
    };
    let udp = Session {
        network: 2,
        flags: FLAG_FROM_OUTSIDE,
        outbound: Traffic { packets: 9, bytes: 700 },
        ..session(17, ("10.7.0.3", 5_353), ("198.51.100.1", 61_234), ("2001:db8::53", 53))
    };
    let icmp = Session {
        last_outbound: 110 * SECOND,
        outbound: Traffic { packets: 4, bytes: 392 },
        inbound: Traffic { packets: 4, bytes: 392 },
        ..session(1, ("192.168.122.10", 77), ("198.51.100.1", 1_077), ("203.0.113.9", 0))
    };
    let gre = Session {
        network: 9,
        uplink_ifindex: 30,
        flags: FLAG_HAIRPIN,
        since: 50 * SECOND,
        state: tcp::State::Closing as u8,
        ..session(47, ("192.168.122.9", 0), ("198.51.100.1", 0), ("203.0.113.9", 0))
    };
    let state = state();
    let reader = Reader { names: Names::of(&state), now: 200 * SECOND };
    [tcp, udp, icmp, gre].iter().map(|session| reader.flow(session)).collect()
}

fn apply(filter: &Filter) -> Vec<u8> {
    filter.apply(flows().into_iter()).iter().map(|flow| flow.protocol.0).collect()
}

#[test]
fn the_table_has_one_line_per_flow() {
    assert_eq!(
        table(&flows()),
        "\
PROTO  INSIDE                OUTSIDE               REMOTE             KIND             STATE          AGE   IDLE  PACKETS  PACKETS  BYTES  BYTES  NETWORK  UPLINK
                                                                                                                      OUT       IN    OUT     IN
tcp    192.168.122.10:40000  198.51.100.1:40000    203.0.113.9:80     forward,hairpin  established  1m40s     0s       12     123k   1200   181M  default  enp1s0
udp    10.7.0.3:5353         198.51.100.1:61234    [2001:db8::53]:53  outside          opening      1m40s    50s        9        0    700      0  lab      enp1s0
icmp   192.168.122.10 id 77  198.51.100.1 id 1077  203.0.113.9        -                opening      1m40s  1m30s        4        4    392    392  default  enp1s0
gre    192.168.122.9         198.51.100.1          203.0.113.9        hairpin          closing      2m30s    50s        0        0      0      0  #9       #30
"
    );
}

#[test]
fn no_flow_is_said() {
    assert_eq!(table(&[]), "no flows\n");
}

#[test]
fn json_has_raw_numbers_and_stable_names() {
    let json = serde_json::to_value(flows()).unwrap();
    assert_eq!(
        json[0],
        serde_json::json!({
            "protocol": "tcp",
            "inside": {"address": "192.168.122.10", "port": 40_000},
            "outside": {"address": "198.51.100.1", "port": 40_000},
            "remote": {"address": "203.0.113.9", "port": 80},
            "forwarded": true,
            "from_outside": true,
            "hairpin": true,
            "state": "established",
            "age_ms": 100_000,
            "idle_ms": 999,
            "outbound": {"packets": 12, "bytes": 1_200},
            "inbound": {"packets": 123_456, "bytes": 181_000_000},
            "network": "default",
            "uplink": "enp1s0",
        })
    );
    let id = serde_json::json!({"address": "198.51.100.1", "identifier": 1_077});
    assert_eq!(json[2]["outside"], id);
    assert_eq!(json[2]["remote"], serde_json::json!({"address": "203.0.113.9"}));
    assert_eq!(json[3]["inside"], serde_json::json!({"address": "192.168.122.9"}));
}

#[test]
fn filters_choose_by_guest_network_and_protocol() {
    let guest = Some("192.168.122.10".parse().unwrap());
    assert_eq!(apply(&Filter { guest, ..Filter::default() }), [6, 1]);
    let network = Some("lab".to_owned());
    assert_eq!(apply(&Filter { network, ..Filter::default() }), [17]);
    let protocol = Some(Protocol(1));
    assert_eq!(apply(&Filter { guest, protocol, ..Filter::default() }), [1]);
}

#[test]
fn every_order_puts_the_most_first_and_the_limit_cuts_the_rest() {
    let sorted = |sort| apply(&Filter { sort, ..Filter::default() });
    assert_eq!(sorted(Sort::Bytes), [6, 1, 17, 47]);
    assert_eq!(sorted(Sort::Packets), [6, 17, 1, 47]);
    assert_eq!(sorted(Sort::Idle), [1, 17, 47, 6]);
    assert_eq!(sorted(Sort::Age), [47, 17, 1, 6]);
    assert_eq!(sorted(Sort::Guest), [17, 47, 1, 6]);
    assert_eq!(apply(&Filter { limit: Some(2), ..Filter::default() }), [6, 1]);
}

#[test]
fn an_unknown_network_names_the_known_ones() {
    let filter = Filter { network: Some("lba".to_owned()), ..Filter::default() };
    assert_eq!(
        filter.check(&state()).unwrap_err().to_string(),
        "instance `default` has no network `lba`; it has `default`, `lab`"
    );
    let filter = Filter { network: Some("lab".to_owned()), ..Filter::default() };
    assert!(filter.check(&state()).is_ok());
}

#[test]
fn ipv6_flows_have_brackets_around_addresses_with_ports() {
    let inside = ("fd00:122::10", 40_000);
    let tcp = session(6, inside, ("2001:db8::2", 40_001), ("2001:db8:f::9", 443));
    let icmp = session(58, ("fd00:122::10", 7), ("fd00:122::10", 7), ("fd00:123::9", 0));
    let icmp = Session { uplink_ifindex: 40, ..icmp };
    let state = state();
    let reader = Reader { names: Names::of(&state), now: 150 * SECOND };
    let flows: Vec<_> = [tcp, icmp].iter().map(|session| reader.flow(session)).collect();
    assert_eq!(
        table(&flows),
        "\
PROTO      INSIDE                OUTSIDE              REMOTE               STATE    AGE  IDLE  PACKETS  PACKETS  BYTES  BYTES  NETWORK  UPLINK
                                                                                                   OUT       IN    OUT     IN
tcp        [fd00:122::10]:40000  [2001:db8::2]:40001  [2001:db8:f::9]:443  opening  50s    0s        0        0      0      0  default  enp1s0
ipv6-icmp  fd00:122::10 id 7     fd00:122::10 id 7    fd00:123::9          opening  50s    0s        0        0      0      0  default  br-lab
"
    );
    let of_guest = |guest: &str| {
        let filter = Filter { guest: Some(guest.parse().unwrap()), ..Filter::default() };
        filter.apply(flows.iter().cloned()).len()
    };
    assert_eq!((of_guest("fd00:122:0::10"), of_guest("fd00:123::9")), (2, 0));
}

#[test]
fn guest_may_be_named_by_its_ipv4_mapped_address() {
    let guest = Some("::ffff:192.168.122.10".parse().unwrap());
    assert_eq!(apply(&Filter { guest, ..Filter::default() }), [6, 1]);
}
