//! The daemon follows what changes on its host.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use nix::sys::signal::Signal;
use vnet_common::{
    flow::SessionCursor,
    names::map,
    network::{Config, Network, generation},
};
use vnet_tests::{
    lab::{
        Node, StandardLab, listing, require_bonding, require_root, services::UdpEcho, wait_until,
    },
    lifecycle::{DEADLINE, Scene},
};

const AT_UPLINK: [&str; 2] = ["egress of eth0", "ingress of eth0"];
const AT_BRIDGE: [&str; 2] = ["egress of virbr0", "ingress of virbr0"];
const MODES: [&str; 2] = ["tcx", "clsact"];

/// The first element of an array, as the programs read it.
fn element<T: aya::Pod + Send>(scene: &Scene, name: &str, index: u32) -> Result<T> {
    let path = format!("/sys/fs/bpf/vnet/{}/maps/{name}", scene.instance);
    scene.lab.host.enter(|| {
        let data = MapData::from_pin(path)?;
        Ok(Array::<_, T>::try_from(Map::Array(data))?.get(&index, 0)?)
    })?
}

/// A network as packets see it.
fn network(scene: &Scene, slot: u16) -> Result<Network> {
    let config: Config = element(scene, map::CONFIG, 0)?;
    element(scene, map::NETWORKS, Network::index(slot, generation(config.epoch)))
}

/// The names of the pinned links.
fn links(scene: &Scene) -> Result<Vec<String>> {
    let path = format!("/sys/fs/bpf/vnet/{}/links", scene.instance);
    let names = scene.lab.host.run(&["ls", &path])?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// With the address that it had, as libvirt does: the guests know it from ARP.
fn make_bridge_again(host: &Node) -> Result<()> {
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    host.run(&["ip", "link", "set", "virbr0", "address", "52:54:00:00:ff:01"])?;
    Ok(())
}

#[test]
fn replaced_address_of_the_uplink_is_masqueraded_to() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    let echo = UdpEcho::start(&scene.lab.outside, "203.0.113.1:7".parse()?)?;
    let here = "192.168.122.12:4000".parse()?;
    let flow = scene.lab.veth_guest.udp_socket(here, echo.address(), DEADLINE / 100)?;
    let ask = || {
        let sent = flow.send(b"who am I");
        sent.and_then(|_| flow.recv(&mut [0; 8])).map_err(|error| error.to_string())
    };
    wait_until("an answer", DEADLINE, ask)?;
    scene.lab.host.ip_batch(&[
        "address add 203.0.113.77/24 dev eth0".to_owned(),
        "address delete 203.0.113.2/24 dev eth0".to_owned(),
        // The second became the first, and the routes of the first went with it.
        "address replace 203.0.113.77/24 dev eth0".to_owned(),
        "route replace default via 203.0.113.1 dev eth0".to_owned(),
    ])?;
    wait_until("an answer at the new address", DEADLINE, || {
        ask()?;
        let address = echo.peers().last().map(|peer| peer.ip().to_string());
        if address.as_deref() == Some("203.0.113.77") {
            Ok(())
        } else {
            Err(format!("{address:?}"))
        }
    })?;
    let strange: Vec<_> = echo
        .peers()
        .into_iter()
        .filter(|peer| !["203.0.113.2", "203.0.113.77"].contains(&&*peer.ip().to_string()))
        .collect();
    ensure!(strange.is_empty(), "{strange:?}");
    scene.stop_but_for(&["203.0.113.", "default"], running, Signal::SIGTERM)?;
    Ok(())
}

/// Puts a bond of mode 1 in the place of the uplink: `eth0`, and a second wire to the same outside.
fn bond_the_uplink(lab: &StandardLab) -> Result<()> {
    lab.outside.run(&["ip", "link", "add", "wan", "type", "bridge"])?;
    let peer = lab.outside.path();
    lab.host.run(&[
        "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "second", "netns", &peer,
    ])?;
    lab.outside.ip_batch(&[
        "address flush dev eth0".to_owned(),
        "link set eth0 master wan up".to_owned(),
        "link set second master wan up".to_owned(),
        "address add 203.0.113.1/24 dev wan".to_owned(),
        "link set wan up".to_owned(),
    ])?;
    let bond = ["ip", "link", "add", "bond0", "type", "bond", "mode", "active-backup"];
    lab.host.run(&[&bond[..], &["miimon", "50"]].concat())?;
    let mut lines = vec!["address flush dev eth0".to_owned()];
    for slave in ["eth0", "eth1"] {
        lines.push(format!("link set {slave} down"));
        lines.push(format!("link set {slave} master bond0"));
    }
    lines.extend(
        [
            "link set bond0 up",
            "address add 203.0.113.2/24 dev bond0",
            "route add default via 203.0.113.1",
        ]
        .map(str::to_owned),
    );
    Ok(lab.host.ip_batch(&lines)?)
}

#[test]
fn flows_go_on_when_a_bonds_active_slave_changes() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    let scene = Scene::with(bond_the_uplink)?;
    let running = scene.ready(&[])?;
    scene.wait_for_hooks(&["egress of bond0", "ingress of bond0", AT_BRIDGE[0], AT_BRIDGE[1]])?;
    let before = links(&scene)?;
    let echo = UdpEcho::start(&scene.lab.outside, "203.0.113.1:7".parse()?)?;
    let here = "192.168.122.12:4000".parse()?;
    let flow = scene.lab.veth_guest.udp_socket(here, echo.address(), DEADLINE / 100)?;
    let ask = || {
        let sent = flow.send(b"who am I");
        sent.and_then(|_| flow.recv(&mut [0; 8])).map_err(|error| error.to_string())
    };
    wait_until("an answer", DEADLINE, ask)?;
    let is_active = |slave: &str| {
        let shown = scene.lab.host.run(&["ip", "-d", "link", "show", "bond0"]);
        let shown = shown.map_err(|error| error.to_string())?;
        if shown.contains(&format!("active_slave {slave} ")) { Ok(()) } else { Err(shown) }
    };
    for slave in ["eth1", "eth0"] {
        scene.lab.host.run(&[
            "ip",
            "link",
            "set",
            "bond0",
            "type",
            "bond",
            "active_slave",
            slave,
        ])?;
        wait_until("it is active", DEADLINE, || is_active(slave))?;
        wait_until("an answer by the other slave", DEADLINE, ask)?;
    }
    // One that fails is left by itself.
    scene.lab.host.run(&["ip", "link", "set", "eth0", "down"])?;
    wait_until("the other slave is active", DEADLINE, || is_active("eth1"))?;
    wait_until("an answer by the one that is left", DEADLINE, ask)?;
    let peers = echo.peers();
    ensure!(peers.iter().all(|peer| *peer == peers[0]), "{peers:?}");
    ensure!(links(&scene)? == before);
    scene.lab.host.run(&["ip", "link", "set", "eth0", "up"])?;
    scene.stop_but_for(&["bond0"], running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn uplinks_go_and_come() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in MODES {
        let scene = Scene::new()?;
        let running = scene.ready(&["--attach", mode])?;
        scene.assert_guests_get_out()?;
        scene.lab.host.run(&["ip", "link", "delete", "eth0"])?;
        scene.wait_for_hooks(&AT_BRIDGE).context(mode)?;
        running.wait_for_line("uplink `eth0` is gone", DEADLINE)?;
        if mode == "tcx" {
            // XDP may be on its way off there.
            wait_until("only links of hooks are pinned", DEADLINE, || {
                let state = scene.state().map_err(|error| error.to_string())?;
                let links = links(&scene).map_err(|error| error.to_string())?;
                let hooks = state["hooks"].as_array().map_or(0, Vec::len);
                if links.len() == hooks { Ok(()) } else { Err(format!("{hooks}: {links:?}")) }
            })?;
        }
        scene.wait_until_reached("192.168.122.1")?;

        let (here, there) = ("198.51.100.2/24", "198.51.100.1/24");
        let _outside = scene.lab.lab.outside(&scene.lab.host, "wan1", "other", here, there)?;
        scene.wait_for_hooks(&["egress of wan1", "ingress of wan1", AT_BRIDGE[0], AT_BRIDGE[1]])?;
        scene.wait_until_reached("198.51.100.1").context(mode)?;
        let changed = ["eth0", "wan1", "203.0.113.", "198.51.100."];
        scene.stop_but_for(&changed, running, Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn bridge_that_is_made_anew_is_served_again() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in MODES {
        let scene = Scene::new()?;
        let host = &scene.lab.host;
        let running = scene.ready(&["--attach", mode])?;
        scene.assert_guests_get_out()?;
        host.run(&["ip", "link", "delete", "virbr0"])?;
        scene.wait_for_hooks(&AT_UPLINK).context(mode)?;
        running.wait_for_line("there is no bridge `virbr0` on this host", DEADLINE)?;

        // Everything else is still followed.
        let (here, there) = ("198.51.100.2/24", "198.51.100.1/24");
        let _other = scene.lab.lab.outside(host, "wan1", "other", here, there)?;
        let wan = ["egress of wan1", "ingress of wan1"];
        scene.wait_for_hooks(&[AT_UPLINK[0], AT_UPLINK[1], wan[0], wan[1]])?;

        make_bridge_again(host)?;
        for guest in ["guest1", "guest2"] {
            let port = host.port_of(guest).context("no port")?;
            host.run(&["ip", "link", "set", &port, "master", "virbr0"])?;
        }
        let all = [AT_UPLINK[0], AT_UPLINK[1], wan[0], wan[1], AT_BRIDGE[0], AT_BRIDGE[1]];
        scene.wait_for_hooks(&all).context(mode)?;
        scene.wait_until_reached("203.0.113.1").context(mode)?;
        scene.wait_until_reached("198.51.100.1").context(mode)?;
        let changed = ["virbr0", "wan1", "198.51.100."];
        scene.stop_but_for(&changed, running, Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn guests_of_a_bridge_that_is_not_served_yet_do_not_leak() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let host = &scene.lab.host;
    let running = scene.ready(&[])?;
    host.run(&["ip", "link", "delete", "virbr0"])?;
    scene.wait_for_hooks(&AT_UPLINK)?;
    let capture = scene.lab.outside.capture("eth0", "ip src net 192.168.122.0/24")?;
    // The daemon does not see the new bridge, and the stack forwards what comes from there.
    running.signal(Signal::SIGSTOP)?;
    make_bridge_again(host)?;
    let port = host.port_of("guest2").context("no port")?;
    host.run(&["ip", "link", "set", &port, "master", "virbr0"])?;
    let guest = &scene.lab.veth_guest;
    wait_until("the guest reaches the host", DEADLINE, || match guest.ping("192.168.122.1", 1) {
        Ok(ping) if ping.received == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let ping = guest.ping("203.0.113.1", 3)?;
    ensure!(ping.received == 0, "{ping:?}");
    running.signal(Signal::SIGCONT)?;
    wait_until("the guest gets out again", DEADLINE, || match guest.ping("203.0.113.1", 1) {
        Ok(ping) if ping.received == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let leaked = capture.finish()?;
    ensure!(leaked.is_empty(), "{}", listing(&leaked));
    // The other guest's port is in no bridge now.
    let port = host.port_of("guest1").context("no port")?;
    scene.stop_but_for(&["virbr0", &port], running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn mtu_of_the_bridge_is_followed() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    ensure!(network(&scene, 1)?.mtu == 1500);
    scene.lab.host.run(&["ip", "link", "set", "virbr0", "mtu", "1400"])?;
    wait_until("the programs know the MTU", DEADLINE, || match network(&scene, 1) {
        Ok(network) if network.mtu == 1400 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    scene.lab.host.run(&["ip", "link", "set", "virbr0", "mtu", "1500"])?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn sessions_are_swept() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    scene.assert_guests_get_out()?;
    wait_until("the sweep has looked at a session", DEADLINE, || {
        match element::<SessionCursor>(&scene, map::SESSION_CURSOR, 0) {
            Ok(cursor) if cursor.sweep > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn ephemeral_ports_are_followed_although_no_notice_tells() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    let range = "net.ipv4.ip_local_port_range";
    let former = scene.lab.host.sysctl_value(range)?;
    scene.lab.host.sysctl(range, "20000 30000")?;
    wait_until("the programs know the ports", DEADLINE, || {
        match element::<Config>(&scene, map::CONFIG, 0) {
            Ok(Config { host_ports, .. })
                if (host_ports.first, host_ports.last) == (20000, 30000) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })?;
    scene.lab.host.sysctl(range, &former)?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn renamed_uplink_keeps_its_programs_and_its_traffic() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in MODES {
        let scene = Scene::new()?;
        let running = scene.ready(&["--attach", mode])?;
        scene.assert_guests_get_out()?;
        let programs = |scene: &Scene| -> Result<Vec<String>> {
            let state = scene.state()?;
            let hooks = state["hooks"].as_array().context("no hooks")?;
            Ok(hooks.iter().map(|hook| hook["program_id"].to_string()).collect())
        };
        let before = programs(&scene)?;
        scene.lab.host.run(&["ip", "link", "set", "eth0", "name", "wan0"])?;
        scene.wait_for_hooks(&["egress of wan0", "ingress of wan0", AT_BRIDGE[0], AT_BRIDGE[1]])?;
        ensure!(programs(&scene)? == before, "{before:?}");
        scene.assert_guests_get_out().context(mode)?;
        let output = scene.stop_but_for(&["eth0", "wan0"], running, Signal::SIGTERM)?;
        ensure!(!output.stderr.contains("detached"), "{}", output.stderr);
    }
    Ok(())
}

#[test]
fn hook_that_somebody_takes_off_is_attached_again() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&["--attach", "clsact"])?;
    scene.assert_guests_get_out()?;
    scene.lab.host.run(&["tc", "qdisc", "delete", "dev", "eth0", "clsact"])?;
    running.wait_for_line(
        "`uplink_egress` was taken off egress of `eth0` by somebody: attaching it again",
        DEADLINE,
    )?;
    scene.wait_until_reached("203.0.113.1")?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn uplink_that_cannot_be_hooked_is_tried_again_and_disturbs_no_other() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let host = &scene.lab.host;
    let running = scene.ready(&["--attach", "clsact"])?;
    let other = scene.lab.lab.station("other")?;
    host.run(&[
        "ip",
        "link",
        "add",
        "wan1",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        &other.path(),
    ])?;
    host.run(&["tc", "qdisc", "add", "dev", "wan1", "ingress"])?;
    other.ip_batch(&[
        "address add 198.51.100.1/24 dev eth0".to_owned(),
        "link set eth0 up".to_owned(),
    ])?;
    host.ip_batch(&[
        "address add 198.51.100.2/24 dev wan1".to_owned(),
        "link set wan1 up".to_owned(),
    ])?;
    running.wait_for_line(
        "cannot follow a change of the host, next try in 1 s: cannot attach `uplink_egress` to \
         egress of `wan1`: an ingress qdisc is in the place of clsact: remove it with `tc qdisc \
         del dev wan1 ingress` if nothing needs it",
        DEADLINE,
    )?;
    scene.assert_guests_get_out()?;
    // Fails closed: there is nothing that would translate.
    let capture = other.capture("eth0", "ip src net 192.168.122.0/24")?;
    let ping = scene.lab.tap_guest.ping("198.51.100.1", 2)?;
    ensure!(ping.received == 0, "{ping:?}");
    let leaked = capture.finish()?;
    ensure!(leaked.is_empty(), "{}", listing(&leaked));

    host.run(&["tc", "qdisc", "delete", "dev", "wan1", "ingress"])?;
    // Deleting a qdisc is nothing that the daemon hears of.
    scene.wait_until_reached("198.51.100.1")?;
    scene.stop_but_for(&["wan1", "198.51.100."], running, Signal::SIGTERM)?;
    Ok(())
}
