//! What `vnet status` and `vnet flows` read from real maps: each test in a mount namespace of its
//! own with its own /run and BPF file system. They need root and the BPF object.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod fixture;

use std::{os::unix::process::CommandExt as _, process::Command};

use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use bytemuck::Zeroable as _;
use vnet::{
    instance::{Lock, Name},
    report::{
        Counts, Protocol, ReportError,
        flows::{self, Filter},
        status::{self, FlowTable, GuestLimit, Limit, Limits},
    },
};
use vnet_common::{
    address::{Address, PortBe},
    flow::{GuestUsage, Phase, Session, SessionCursor, Traffic},
    names::map,
    network::{Config, Network, NetworkTraffic},
    policy::Mode,
    reason::{DropReason, Handover},
    tcp,
};

use fixture::{Instance, monotonic_now, with_instance};

const SECOND: u64 = 1_000_000_000;

/// A live TCP flow of network 1, 90 seconds old and idle for 30.
fn tcp_session() -> Session {
    let now = monotonic_now();
    let address = |text: &str| Address::from_addr(text.parse().unwrap());
    Session {
        phase: Phase::Live as u32,
        generation: 3,
        uplink_ifindex: 2,
        protocol: 6,
        state: tcp::State::FinInside as u8,
        network: 1,
        inside: address("192.168.122.10"),
        inside_port: PortBe::from_host(40_000),
        external: address("198.51.100.1"),
        external_port: PortBe::from_host(41_000),
        remote: address("203.0.113.9"),
        remote_port: PortBe::from_host(443),
        since: now - 90 * SECOND,
        last_outbound: now - 60 * SECOND,
        last_inbound: now - 30 * SECOND,
        outbound: Traffic { packets: 10, bytes: 1_000 },
        inbound: Traffic { packets: 20, bytes: 20_000 },
        ..Session::zeroed()
    }
}

/// Slots 0 to 3 were used: live, resting, live, being filled. Slot 4 is a trap.
fn write_sessions(instance: &mut Instance) {
    let live = tcp_session();
    let icmp = Session { protocol: 1, network: 2, remote_port: PortBe::NONE, ..live };
    let slots = [
        live,
        Session { phase: Phase::HoldDown as u32, ..live },
        icmp,
        Session { phase: Phase::Filling as u32, ..live },
        live,
    ];
    let mut sessions: Array<_, Session> = instance.map(map::SESSIONS).try_into().unwrap();
    for (index, session) in (0..).zip(slots) {
        sessions.set(index, session, 0).unwrap();
    }
    write_cursor(instance, SessionCursor { fresh: 4, ended: 5, ..SessionCursor::zeroed() });
}

fn write_cursor(instance: &mut Instance, cursor: SessionCursor) {
    let mut map: Array<_, SessionCursor> = instance.map(map::SESSION_CURSOR).try_into().unwrap();
    map.set(0, cursor, 0).unwrap();
}

/// Gives every CPU the same value, and returns the number of CPUs.
fn on_every_cpu<V: aya::Pod>(instance: &mut Instance, map: &str, index: u32, value: V) -> u64 {
    let cpus = aya::util::nr_cpus().unwrap();
    let mut array: PerCpuArray<_, V> = instance.map(map).try_into().unwrap();
    array.set(index, PerCpuValues::try_from(vec![value; cpus]).unwrap(), 0).unwrap();
    cpus as u64
}

#[test]
fn flows_are_the_live_ones_of_the_used_slots() {
    with_instance(|mut instance| {
        write_sessions(&mut instance);
        let found = flows::read(&instance.name, &Filter::default()).unwrap();
        assert_eq!(found.len(), 2, "{}", flows::table(&found));
        let flow = &found[1];
        assert_eq!(flow.protocol, Protocol(6));
        assert_eq!(flow.inside.to_string(), "192.168.122.10:40000");
        assert_eq!(flow.outside.to_string(), "198.51.100.1:41000");
        assert_eq!(flow.remote.to_string(), "203.0.113.9:443");
        assert_eq!(flow.state, tcp::State::FinInside);
        // The rest is the time that the test takes.
        assert!((90..150).contains(&flow.age.as_secs()), "{:?}", flow.age);
        assert!((30..90).contains(&flow.idle.as_secs()), "{:?}", flow.idle);
        assert_eq!(flow.age.saturating_sub(flow.idle).as_secs(), 60);
        assert_eq!(flow.outbound, Counts { packets: 10, bytes: 1_000 });
        assert_eq!(flow.inbound, Counts { packets: 20, bytes: 20_000 });
        assert_eq!((flow.network.as_str(), flow.uplink.as_str()), ("default", "enp1s0"));
        assert_eq!(found[0].inside.to_string(), "192.168.122.10 id 40000");
        assert_eq!(found[0].network, "lab");
    });
}

#[test]
fn status_shows_what_networks_and_guests_use_of_their_limits() {
    with_instance(|mut instance| {
        write_sessions(&mut instance);
        let network = Network {
            mode: Mode::Nat as u8,
            mode_ipv6: Mode::Route as u8,
            flow_limit: 50,
            flows_per_guest: 10,
            ports_per_guest: 5,
            new_flows_per_second: 7,
            ..Network::zeroed()
        };
        let mut networks: Array<_, Network> = instance.map(map::NETWORKS).try_into().unwrap();
        networks.set(Network::index(1, 0), network, 0).unwrap();
        let routed = Network { mode: Mode::Route as u8, ..network };
        networks.set(Network::index(2, 0), routed, 0).unwrap();
        let mut used: Array<_, u64> = instance.map(map::NETWORK_FLOWS).try_into().unwrap();
        used.set(1, 2, 0).unwrap();
        let inside = tcp_session().inside;
        let usage = GuestUsage { inside, flows: 1, ports: 2, opened: 0, ..GuestUsage::default() };
        let mut guests: HashMap<_, Address, GuestUsage> =
            instance.map(map::GUESTS).try_into().unwrap();
        guests.insert(inside, usage, 0).unwrap();
        // The guest is of one network.
        let mut sessions: Array<_, Session> = instance.map(map::SESSIONS).try_into().unwrap();
        sessions.set(2, Session::zeroed(), 0).unwrap();

        let status = status::read(&instance.name).unwrap();
        let guest = Some(inside.to_addr());
        let expected = Limits {
            flows: Limit { used: 2, limit: 50 },
            guest_flows: GuestLimit { used: 1, limit: 10, guest },
            guest_ports: GuestLimit { used: 2, limit: 5, guest },
            guest_new_flows_per_second: Some(7),
        };
        assert_eq!(status.networks[0].limits, Some(expected));
        assert_eq!(status.networks[1].limits, None);
    });
}

#[test]
fn an_instance_without_flows_has_an_empty_list() {
    with_instance(|instance| {
        assert_eq!(flows::read(&instance.name, &Filter::default()).unwrap(), []);
    });
}

#[test]
fn a_cursor_beyond_the_table_is_bounded_by_it() {
    with_instance(|mut instance| {
        write_sessions(&mut instance);
        let fresh = u64::from(fixture::SLOTS) + 2;
        write_cursor(&mut instance, SessionCursor { fresh, ..SessionCursor::zeroed() });
        assert_eq!(flows::read(&instance.name, &Filter::default()).unwrap().len(), 3);
    });
}

#[test]
fn status_sums_the_counters_of_all_cpus() {
    with_instance(|mut instance| {
        write_sessions(&mut instance);
        let traffic = NetworkTraffic {
            outbound: Traffic { packets: 1, bytes: 100 },
            inbound: Traffic { packets: 2, bytes: 300 },
        };
        let cpus = on_every_cpu(&mut instance, map::TRAFFIC, 1, traffic);
        on_every_cpu(&mut instance, map::DROPS, DropReason::SpoofedSource.counter(1), 4_u64);
        on_every_cpu(&mut instance, map::DROPS, DropReason::NoNetwork.counter(0), 5_u64);
        on_every_cpu(&mut instance, map::HANDOVERS, Handover::OverMtu.counter(2), 6_u64);

        let status = status::read(&instance.name).unwrap();
        assert_eq!(status.flows, FlowTable { live: 2, limit: fixture::SLOTS, expired: 5 });
        let [default, lab] = &status.networks[..] else { panic!("{}", status.table()) };
        assert_eq!((default.flows, lab.flows), (1, 1));
        assert_eq!(default.outbound, Counts { packets: cpus, bytes: 100 * cpus });
        assert_eq!(default.inbound, Counts { packets: 2 * cpus, bytes: 300 * cpus });
        assert_eq!((lab.outbound, lab.inbound), (Counts::default(), Counts::default()));
        let reasons = |outcomes: &[status::Outcome]| -> Vec<(&'static str, u64)> {
            outcomes.iter().map(|outcome| (outcome.reason, outcome.packets)).collect()
        };
        assert_eq!(reasons(&default.outcomes.drops), [("spoofed-source", 4 * cpus)]);
        assert_eq!(reasons(&default.outcomes.handovers), []);
        assert_eq!(reasons(&lab.outcomes.drops), []);
        assert_eq!(reasons(&lab.outcomes.handovers), [("over-mtu", 6 * cpus)]);
        assert_eq!(reasons(&status.no_network.drops), [("no-network", 5 * cpus)]);
        assert_eq!(reasons(&status.no_network.handovers), []);
    });
}

#[test]
fn the_daemon_runs_as_long_as_it_holds_the_lock() {
    with_instance(|instance| {
        let running = || status::read(&instance.name).unwrap().daemon_running;
        assert!(!running());
        let lock = Lock::take(&instance.name).unwrap();
        assert!(running());
        drop(lock);
        assert!(!running());
    });
}

#[test]
fn a_map_of_another_layout_is_refused() {
    with_instance(|mut instance| {
        instance.pin_instead(map::SESSIONS, map::NETWORKS);
        let ours = env!("CARGO_PKG_VERSION");
        let refused = |difference: &str| {
            format!(
                "instance `default` runs vnet 9.9.9, whose map SESSIONS this vnet {ours} cannot \
                 read ({difference}): use the `vnet` that started it, or restart it with this one"
            )
        };
        write_cursor(&mut instance, SessionCursor { fresh: 1, ..SessionCursor::zeroed() });
        let error = flows::read(&instance.name, &Filter::default()).unwrap_err();
        let network = format!("values of {} bytes, not 192", size_of::<Network>());
        assert_eq!(error.to_string(), refused(&network));
        instance.pin_instead(map::SESSION_CURSOR, map::CONFIG);
        let error = status::read(&instance.name).unwrap_err();
        let config = format!("values of {} bytes, not 24", size_of::<Config>());
        let other = refused(&config).replace("SESSIONS", "SESSION_CURSOR");
        assert_eq!(error.to_string(), other);
    });
}

#[test]
fn missing_maps_and_missing_instances_are_told_apart() {
    with_instance(|instance| {
        instance.unpin(map::DROPS);
        let error = status::read(&instance.name).unwrap_err();
        assert!(matches!(error, ReportError::NoMap { .. }), "{error}");
        let other: Name = "other".parse().unwrap();
        let error = status::read(&other).unwrap_err().to_string();
        assert_eq!(
            error,
            "no instance `other` is running; there are `default`: choose one with `--instance`"
        );
    });
}

#[test]
fn the_commands_print_tables_and_json_and_exit_with_1_on_errors() {
    with_instance(|mut instance| {
        write_sessions(&mut instance);
        let (code, text, _) = vnet("status", &[]);
        assert_eq!(code, 0);
        assert!(text.contains("Flows     2 of 64, 5 expired\n"), "{text}");
        let (code, text, _) = vnet("status", &["-o", "json"]);
        assert_eq!(code, 0);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["networks"][1]["flows"], 1);
        let (code, text, _) = vnet("flows", &["-o", "json", "--protocol", "tcp"]);
        assert_eq!(code, 0);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 1);
        assert_eq!(json[0]["outside"]["port"], 41_000);
        let (code, text, _) = vnet("flows", &["--guest", "10.0.0.1"]);
        assert_eq!((code, text.as_str()), (0, "no flows\n"));

        let (code, text, error) = vnet("flows", &["--instance", "lab"]);
        assert_eq!((code, text.as_str()), (1, ""));
        assert_eq!(
            error,
            "error: no instance `lab` is running; there are `default`: choose one with `--instance`\n"
        );
    });
}

#[test]
fn a_user_without_rights_is_told_to_be_root() {
    with_instance(|_instance| {
        let output = vnet_command("status").uid(65534).gid(65534).output();
        // The build directory may be closed to others.
        let Ok(output) = output else {
            eprintln!("skipped: another user cannot run {}", env!("CARGO_BIN_EXE_vnet"));
            return;
        };
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "error: not allowed to read /sys/fs/bpf/vnet/default/maps/SESSION_CURSOR: run as root \
             (`sudo vnet ...`)\n"
        );
    });
}

fn vnet_command(subcommand: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vnet"));
    command.arg(subcommand);
    command
}

/// Exit code, standard output and standard error of the program, run in this thread's namespaces.
fn vnet(subcommand: &str, words: &[&str]) -> (i32, String, String) {
    let output = vnet_command(subcommand).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}
