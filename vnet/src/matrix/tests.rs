use vnet_common::policy::{self, Mode, Modes};

use super::{
    json::Json,
    policy::{Details, Matrix, Place},
    text,
};

const X: u32 = 2;
const Y: u32 = 3;

fn network(slot: u16, name: &str, modes: Modes, bound: u32, subnets: &[&str]) -> Place {
    Place {
        name: name.to_owned(),
        policy: policy::Place::Network {
            slot,
            modes,
            forward_ifindex: bound,
            isolated_ports: name == "shared",
        },
        details: Details::Network {
            device: (bound == X).then(|| "eth0".to_owned()),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            gateways: vec![],
            masquerade: vec![],
            pool: None,
        },
    }
}

fn outside(name: &str, ifindex: u32) -> Place {
    Place {
        name: name.to_owned(),
        policy: policy::Place::Outside { ifindex },
        details: Details::Outside { addresses: vec![] },
    }
}

fn host() -> Place {
    Place { name: "host".to_owned(), policy: policy::Place::Host, details: Details::Host }
}

const ROUTED_IPV6: Modes = Modes { ipv4: Mode::Nat, ipv6: Mode::Route };
const BOTH: [&str; 2] = ["10.1.0.0/24", "2001:db8:1::/64"];

#[test]
fn one_grid_serves_both_families_if_they_do_not_differ() {
    let matrix = Matrix {
        places: vec![
            network(1, "default", Modes::both(Mode::Nat), 0, &BOTH),
            network(2, "quiet", Modes::both(Mode::Isolated), 0, &BOTH),
            outside("outside", X),
            host(),
        ],
    };
    assert_eq!(
        text::policy(&matrix),
        "\
NETWORK  MODE      TO HOST  TO OTHER GUESTS  TO OUTSIDE  FROM OUTSIDE
default  nat       yes      yes              by NAT      no
quiet    isolated  yes      yes              no          no

Who may open connections to whom (rows to columns), IPv4 and IPv6
         default  quiet  outside  host
default  A        R      A*       A
quiet    R        A      R        A
outside  R        R      -        A
host     A        A      A        -

A   accepted
A*  accepted, with an address of the host as the source
R   rejected with an ICMP port-unreachable
"
    );
}

#[test]
fn every_mode_has_its_words() {
    let matrix = Matrix {
        places: vec![
            network(1, "default", ROUTED_IPV6, 0, &BOTH),
            network(2, "tenant", Modes::both(Mode::Route), X, &BOTH),
            network(3, "shared", Modes::both(Mode::Nat), 0, &["10.3.0.0/24"]),
            network(4, "public", Modes::both(Mode::Open), 0, &["2001:db8:4::/64"]),
            network(5, "lan", Modes::both(Mode::Bridged), 0, &[]),
            outside("outside:eth0", X),
            outside("outside:eth1", Y),
            host(),
        ],
    };
    assert_eq!(
        text::policy(&matrix),
        "\
NETWORK  MODE            TO HOST        TO OTHER GUESTS  TO OUTSIDE       FROM OUTSIDE
default  nat             yes            yes              IPv4: by NAT     IPv4: no
                                                         IPv6: yes        IPv6: yes
tenant   route dev=eth0  yes            yes              yes (eth0 only)  yes (eth0 only)
shared   nat             yes            no               by NAT           no
public   open            yes            yes              host decides     host decides
lan      bridge          as on the LAN  as on the LAN    as on the LAN    as on the LAN

Who may open connections to whom (rows to columns)
IPv4
              default  tenant  shared  outside:eth0  outside:eth1  host
default       A        R       R       A*            A*            A
tenant        R        A       R       A             R             A
shared        R        R       R       A*            A*            A
outside:eth0  R        A       R       -             A             A
outside:eth1  R        R       R       A             -             A
host          A        A       A       A             A             -

IPv6
              default  tenant  public  outside:eth0  outside:eth1  host
default       A        R       F       A             A             A
tenant        R        A       R       A             R             A
public        F        R       F       F             F             A
outside:eth0  A        A       F       -             A             A
outside:eth1  A        R       F       A             -             A
host          A        A       A       A             A             -

A   accepted
A*  accepted, with an address of the host as the source
F   vnet makes no verdict: the host's own firewall decides
R   rejected with an ICMP port-unreachable
"
    );
}

#[test]
fn columns_have_numbers_if_their_names_do_not_fit() {
    let name = |number| format!("a-network-with-a-long-name-{number}");
    let networks = (1..4).map(|number| {
        network(number, &name(number), Modes::both(Mode::Route), 0, &["10.1.0.0/24"])
    });
    let matrix = Matrix { places: networks.chain([outside("outside", X), host()]).collect() };
    let text = text::policy(&matrix);
    let grid: Vec<&str> = text.lines().skip_while(|line| *line != "IPv4").take(4).collect();
    assert_eq!(
        grid,
        [
            "IPv4",
            "                                1  2  3  4  5",
            "1 a-network-with-a-long-name-1  A  A  A  A  A",
            "2 a-network-with-a-long-name-2  A  A  A  A  A",
        ]
    );
}

#[test]
fn json_names_every_pair() {
    let matrix = Matrix {
        places: vec![
            network(1, "default", ROUTED_IPV6, 0, &BOTH),
            network(2, "tenant", Modes::both(Mode::Route), X, &["10.2.0.0/24"]),
            outside("outside", X),
            host(),
        ],
    };
    let json = serde_json::to_value(Json::of(&matrix, None)).unwrap();
    assert_eq!(
        json["networks"][0],
        serde_json::json!({
            "name": "default", "mode": "nat", "mode_ipv6": "route", "device": null,
            "subnets": ["10.1.0.0/24", "2001:db8:1::/64"],
        })
    );
    let verdicts = json["verdicts"].as_array().unwrap();
    // Four places with IPv4, three with IPv6.
    assert_eq!(verdicts.len(), 16 + 9);
    assert_eq!(
        verdicts[2],
        serde_json::json!({"from": "default", "to": "outside", "family": "IPv4", "verdict": "A*"})
    );
    assert!(json.get("measured").is_none());
}
