//! `vnet run` and `vnet apply` with services and bridges: what guests have of them, and who outlives
//! whom.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vnet_tests::{
    lab::{
        Checksum, Guest, HostState, Ipv6Noise, Lab, Namespace, Node, Output, Running, require_root,
        services::{Dnsmasq, DnsmasqConfig},
        wait_until,
    },
    lifecycle::{self, DEADLINE},
};

use super::clients::{
    DUID, ISOLATED, NAT, ROUTE, default_routes, names, udhcpc, wait_for_advertisement,
};
use super::support::{Place, fs_of, owner};

const OUTSIDE: &str = "203.0.113.1";
const OUTSIDE_IPV6: &str = "2001:db8::1";

/// A host without bridges, an outside with a DNS server, and an instance of its own.
struct Site {
    lab: Lab,
    host: Node,
    outside: Node,
    instance: String,
    place: Place,
    before: HostState,
    _dns: Dnsmasq,
}

impl Site {
    fn new(test: &str) -> Result<Self> {
        let lab = Lab::with_ipv6(Ipv6Noise::On)?;
        let host = lab.host("host")?;
        let outside = lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        host.add_address("eth0", "2001:db8::2/64")?;
        outside.add_address("eth0", "2001:db8::1/64")?;
        host.run(&["ip", "-6", "route", "add", "default", "via", OUTSIDE_IPV6])?;
        let names = [("upstream.example", "198.51.100.7")];
        let config = DnsmasqConfig { interface: "eth0", names: &names, ..DnsmasqConfig::default() };
        let dns = Dnsmasq::start(&outside, &config)?;
        let place = Place::new(test);
        fs::create_dir(place.0.join("networks"))?;
        fs::write(place.0.join("resolv.conf"), "nameserver 203.0.113.1\n")?;
        let instance = format!("{test}-{}", std::process::id());
        wait_until("no address is tentative", DEADLINE, || {
            let shown = host.run(&["ip", "-o", "-6", "address", "show", "tentative"]);
            let shown = shown.map_err(|error| error.to_string())?;
            if shown.is_empty() { Ok(()) } else { Err(shown) }
        })?;
        let before = HostState::read(&host)?;
        Ok(Self { lab, host, outside, instance, place, before, _dns: dns })
    }

    fn networks(&self) -> String {
        self.place.0.join("networks").display().to_string()
    }

    /// A network of both families in the directory that is served.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.place.0.join("networks").join(name), text)?)
    }

    fn network(&self, forward: &str) -> String {
        self.network_with(forward, "", "")
    }

    fn network_with(&self, forward: &str, hosts: &str, records: &str) -> String {
        format!(
            "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
             <name>n</name>{forward}<bridge name='virbr0' stp='off'/><domain name='lab.example' localOnly='yes'/>\
             <dns>{records}</dns>\
             <ip address='192.168.122.1' prefix='24'><dhcp>\
             <range start='192.168.122.100' end='192.168.122.120'/>{hosts}</dhcp></ip>\
             <ip family='ipv6' address='fd00:122::1' prefix='64'><dhcp>\
             <range start='fd00:122::100' end='fd00:122::1ff'/></dhcp></ip>\
             <dnsmasq:options><dnsmasq:option value='resolv-file={}'/></dnsmasq:options>\
             </network>",
            self.place.0.join("resolv.conf").display()
        )
    }

    /// `vnet run` of the directory, once it is ready.
    fn run(&self, arguments: &[&str]) -> Result<Running> {
        let (program, networks) = (lifecycle::program()?, self.networks());
        let mut command = vec![program.as_str(), "run", &networks, "--instance", &self.instance];
        command.extend(arguments);
        let running = self.host.spawn(&command)?;
        // An error may say `already`.
        wait_until("`vnet run` prints `ready`", DEADLINE, || {
            let is_ready = running.stdout().lines().any(|line| line == "ready");
            if is_ready { Ok(()) } else { Err(running.stderr()) }
        })?;
        Ok(running)
    }

    fn vnet(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        let program = lifecycle::program()?;
        let mut command = vec![program.as_str(), command, "--instance", &self.instance];
        command.extend(arguments);
        Ok(self.host.try_run(&command)?)
    }

    fn runtime(&self) -> PathBuf {
        Path::new("/run/vnet").join(&self.instance)
    }

    fn state(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.runtime().join("state.json"))?)?)
    }

    /// The dnsmasq of the network, as the instance tells.
    fn service(&self) -> Result<u32> {
        let state = self.state()?;
        let process = state["services"][0]["process"].as_u64();
        let process = process.with_context(|| state["services"].to_string())?;
        Ok(u32::try_from(process)?)
    }

    fn leases(&self) -> PathBuf {
        Path::new("/var/lib/vnet").join(&self.instance)
    }

    /// Every process that has the instance's name or one of its files in its command line.
    fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&self.instance) {
                found.push(command);
            }
        }
        found
    }

    /// Nothing is left but leases.
    fn assert_clean(&self) -> Result<()> {
        wait_until("no process of the instance is left", DEADLINE, || {
            let left = self.processes();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        })?;
        let difference = self.before.difference(&HostState::read(&self.host)?);
        ensure!(difference.is_empty(), "{difference}");
        ensure!(!self.runtime().exists(), "{}", self.runtime().display());
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What a failed test has left behind; nobody else has this instance.
        let _ = self.vnet("detach", &[]);
        let _ = fs::remove_dir_all(self.leases());
    }
}

fn assert_reaches(guest: &Namespace, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let ping = guest.ping(address, 2)?;
        ensure!(ping.received == 2, "{} to {address}: {ping:?}", guest.name());
    }
    Ok(())
}

#[test]
fn guests_of_every_mode_are_served_on_a_bridge_that_was_not_there() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-modes")?;
    // Where guests keep their addresses, the outside has to know the way.
    site.outside.run(&["ip", "route", "add", "192.168.122.0/24", "via", "203.0.113.2"])?;
    site.outside.run(&["ip", "-6", "route", "add", "fd00:122::/64", "via", "2001:db8::2"])?;
    for (mode, forward) in [("nat", NAT), ("route", ROUTE), ("isolated", ISOLATED)] {
        site.write("n.xml", &site.network(forward))?;
        let mut daemon = site.run(&["--create-bridges"])?;
        ensure!(owner(site.service()?) == "dnsmasq or nobody");
        let guest = site.lab.guest(&site.host, "virbr0", &Guest::veth(&format!("g{mode}")))?;
        let capture = guest.capture("eth0", "udp src port 67")?;
        let said = udhcpc(&guest, &site.place)?;
        // For clients that read raw frames; dnsmasq's leave the host's stack with a partial one.
        let reply = capture.wait_for(|_| true, DEADLINE)?;
        ensure!(reply.checksum != Checksum::Partial, "{reply}");
        wait_for_advertisement(&guest)?;
        let lent = guest.dhcpv6("eth0", &DUID, DEADLINE)?;
        ensure!((0x100..=0x1ff).contains(&lent.segments()[7]), "{lent}");
        let lent = format!("{lent}/64");
        guest.run(&["ip", "address", "add", &lent, "dev", "eth0", "nodad"])?;
        let (ipv4, ipv6) = (default_routes(&guest, "-4")?, default_routes(&guest, "-6")?);
        assert_reaches(&guest, &["192.168.122.1", "fd00:122::1"])?;
        if mode == "isolated" {
            ensure!(said[1..3] == ["router=", "dns=192.168.122.1"], "{said:?}");
            ensure!(ipv4.is_empty() && ipv6.is_empty(), "{ipv4:?} {ipv6:?}");
            ensure!(names(&guest, "upstream.example").is_empty());
        } else {
            ensure!(said[1..3] == ["router=192.168.122.1", "dns=192.168.122.1"], "{said:?}");
            ensure!(ipv4 == ["default via 192.168.122.1 dev eth0 "], "{ipv4:?}");
            ensure!(ipv6.len() == 1 && ipv6[0].starts_with("default via fe80::"), "{ipv6:?}");
            ensure!(names(&guest, "upstream.example") == ["198.51.100.7"]);
            assert_reaches(&guest, &[OUTSIDE, OUTSIDE_IPV6])?;
        }
        site.lab.unplug(&site.host, &guest)?;
        let output = daemon.terminate(DEADLINE)?.success()?;
        ensure!(!output.stderr.contains("ERROR"), "{mode}: {}", output.stderr);
        site.assert_clean().context(mode)?;
    }
    Ok(())
}

#[test]
fn services_outlive_a_killed_daemon_and_change_without_losing_leases() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-killed")?;
    site.write("n.xml", &site.network(NAT))?;
    let mut daemon = site.run(&["--create-bridges", "--no-watch"])?;
    let process = site.service()?;
    let status = site.vnet("status", &["-o", "json"])?.success()?;
    let status: Value = serde_json::from_str(&status.stdout)?;
    let served = serde_json::json!([{
        "network": "n",
        "bridge": "virbr0",
        "state": "vnet",
        "process": process,
        "serves": ["dhcp", "dhcpv6", "router-advertisements", "dns"],
        "reason": null
    }]);
    ensure!(status["services"] == served, "{}", status["services"]);
    let doctor = site.vnet("doctor", &[&site.networks()])?;
    let said = format!("network `n`: dnsmasq of vnet's serves it (process {process})\n");
    ensure!(doctor.stdout.ends_with(&said), "{doctor:?}");
    let guest = site.lab.guest(&site.host, "virbr0", &Guest::tap("guest1"))?;
    let address = udhcpc(&guest, &site.place)?.swap_remove(0);
    let leases = site.leases().join("dnsmasq/n.leases");
    let lease = fs::read_to_string(&leases)?;
    ensure!(lease.contains("192.168.122.1"), "{lease}");

    daemon.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    assert_reaches(&guest, &[OUTSIDE])?;
    guest.run(&["ip", "address", "flush", "dev", "eth0", "scope", "global"])?;
    ensure!(udhcpc(&guest, &site.place)?[0] == address);

    let mut daemon = site.run(&["--create-bridges", "--no-watch", "--keep"])?;
    ensure!(site.service()? == process);
    // A reservation for another guest: reloaded, with all leases.
    let other = "<host mac='52:54:00:00:00:99' name='other' ip='192.168.122.50'/>";
    let record = "<host ip='192.168.122.50'><hostname>other</hostname></host>";
    site.write("n.xml", &site.network_with(NAT, other, record))?;
    let output = site.vnet("apply", &[&site.networks()])?.success()?;
    ensure!(output.stdout.starts_with("~ n\n"), "{output:?}");
    ensure!(site.service()? == process);
    let reserved = fs::read_to_string(site.runtime().join("dnsmasq/n.hosts"))?;
    ensure!(reserved.contains("52:54:00:00:00:99"), "{reserved}");
    wait_until("the record is known", DEADLINE, || {
        let found = names(&guest, "other.lab.example");
        if found == ["192.168.122.50"] { Ok(()) } else { Err(format!("{found:?}")) }
    })?;
    let lease = lease.split(' ').nth(1).context("a lease")?.to_owned();
    ensure!(fs::read_to_string(&leases)?.contains(&lease));
    ensure!(fs_of(&guest, "/sys/class/net/eth0/address") == lease);

    // The daemon ends, everything goes on; and without a daemon changes are made all the same.
    daemon.terminate(DEADLINE)?.success()?;
    assert_reaches(&guest, &[OUTSIDE])?;
    ensure!(names(&guest, "upstream.example") == ["198.51.100.7"]);
    site.write("n.xml", &site.network_with(NAT, other, &record.replace(".50", ".51")))?;
    site.vnet("apply", &["--create-bridges", &site.networks()])?.success()?;
    ensure!(site.service()? == process);
    wait_until("the new record is known", DEADLINE, || {
        let found = names(&guest, "other.lab.example");
        if found == ["192.168.122.51"] { Ok(()) } else { Err(format!("{found:?}")) }
    })?;

    // A guest keeps the bridge; all else goes, and the bridge the next time.
    let output = site.vnet("detach", &[])?.success()?;
    ensure!(output.stderr.contains("bridge `virbr0` stays"), "{output:?}");
    ensure!(site.processes().is_empty(), "{:?}", site.processes());
    ensure!(site.host.try_run(&["ip", "link", "show", "virbr0"])?.status.success());
    site.lab.unplug(&site.host, &guest)?;
    let output = site.vnet("detach", &[])?.success()?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    site.assert_clean()?;
    // On purpose: guests keep their addresses when vnet comes back.
    ensure!(fs::read_to_string(&leases)?.contains(&lease));
    Ok(())
}

#[test]
fn watched_directory_is_applied_file_by_file() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-watch")?;
    site.write("n.xml", &site.network(NAT))?;
    let mut daemon = site.run(&["--create-bridges"])?;
    let guest = site.lab.guest(&site.host, "virbr0", &Guest::veth("guest1"))?;
    udhcpc(&guest, &site.place)?;
    assert_reaches(&guest, &[OUTSIDE])?;

    // One is valid and one is not, at the same time.
    let second = "<network><name>second</name><bridge name='virbr1' stp='off'/>\
                  <ip address='192.168.123.1' prefix='24'/></network>";
    site.write("bad.xml", "<network><name>bad</name>")?;
    site.write("n.xml", &site.network(ISOLATED))?;
    site.write("second.xml", second)?;
    let networks = || -> Result<Vec<String>> {
        let state = site.state()?;
        let networks = state["networks"].as_array().context("networks")?;
        let said = |it: &Value| format!("{} {}", it["name"], it["mode"]).replace('"', "");
        Ok(networks.iter().map(said).collect())
    };
    let wait_for = |wanted: &[&str]| {
        wait_until(&format!("the networks are {wanted:?}"), DEADLINE, || match networks() {
            Ok(networks) if networks == wanted => Ok(()),
            other => Err(format!("{other:?}\n{}", daemon.stderr())),
        })
    };
    wait_for(&["n isolated", "second isolated"])?;
    ensure!(guest.ping(OUTSIDE, 1)?.received == 0);
    ensure!(site.host.try_run(&["ip", "link", "show", "virbr1"])?.status.success());
    daemon.wait_for_line("bad.xml is ignored, what it said before stays", DEADLINE)?;

    // What becomes invalid stays in force; what is removed goes, with its bridge.
    site.write("second.xml", "<network/>")?;
    daemon.wait_for_line("second.xml is ignored, what it said before stays", DEADLINE)?;
    wait_for(&["n isolated", "second isolated"])?;
    fs::remove_file(site.place.0.join("networks/bad.xml"))?;
    fs::remove_file(site.place.0.join("networks/second.xml"))?;
    site.write("n.xml", &site.network(NAT))?;
    wait_for(&["n nat"])?;
    wait_until("the bridge of the network that has gone goes, too", DEADLINE, || {
        let shown = site.host.try_run(&["ip", "link", "show", "virbr1"]);
        let shown = shown.map_err(|error| error.to_string())?;
        if shown.status.success() { Err(shown.stdout) } else { Ok(()) }
    })?;
    assert_reaches(&guest, &[OUTSIDE])?;

    site.lab.unplug(&site.host, &guest)?;
    daemon.terminate(DEADLINE)?.success()?;
    site.assert_clean()
}

#[test]
fn definition_that_the_host_does_not_allow_waits_for_it() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-waits")?;
    site.host.bridge("virbr0", &["192.168.122.1/24", "fd00:122::1/64"])?;
    site.write("n.xml", &site.network(NAT))?;
    let mut daemon = site.run(&["--no-services"])?;
    ensure!(site.state()?["services"] == Value::Array(Vec::new()));
    let second = "<network><name>second</name><bridge name='virbr1'/>\
                  <ip address='192.168.123.1' prefix='24'/></network>";
    site.write("second.xml", second)?;
    daemon.wait_for_line("second.xml is ignored for now", DEADLINE)?;
    site.host.bridge("virbr1", &["192.168.123.1/24"])?;
    wait_until("the network is served", DEADLINE, || match site.state() {
        Ok(state) if state["networks"][1]["name"] == "second" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    daemon.terminate(DEADLINE)?.success()?;
    for bridge in ["virbr0", "virbr1"] {
        site.host.run(&["ip", "link", "delete", bridge])?;
    }
    site.assert_clean()
}

#[test]
fn network_that_no_longer_fits_the_host_keeps_no_other_from_changing() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-unfit")?;
    let file = |name: &str, third: u8, forward: &str| {
        format!(
            "<network><name>{name}</name>{forward}<bridge name='virbr{third}'/>\
             <ip address='192.168.{third}.1' prefix='24'/></network>"
        )
    };
    for third in [1, 2, 3] {
        site.host.bridge(&format!("virbr{third}"), &[&format!("192.168.{third}.1/24")])?;
        site.write(&format!("{third}.xml"), &file(&format!("n{third}"), third, NAT))?;
    }
    let mut daemon = site.run(&["--no-services"])?;
    let modes = || -> Result<Vec<String>> {
        let state = site.state()?;
        let networks = state["networks"].as_array().cloned().unwrap_or_default();
        let said = |it: &Value| format!("{} {}", it["name"], it["mode"]).replace('"', "");
        Ok(networks.iter().map(said).collect())
    };
    let wait_for = |wanted: &[&str]| {
        wait_until(&format!("the networks are {wanted:?}"), DEADLINE, || match modes() {
            Ok(modes) if modes == wanted => Ok(()),
            other => Err(format!("{other:?}\n{}", daemon.stderr())),
        })
    };
    // As `virsh net-destroy` does.
    site.host.run(&["ip", "link", "delete", "virbr1"])?;
    daemon.wait_for_line("network `n1`: there is no bridge `virbr1`", DEADLINE)?;
    // Files that change and go, SIGHUP, and `vnet apply`.
    site.write("2.xml", &file("n2", 2, ISOLATED))?;
    wait_for(&["n1 nat", "n2 isolated", "n3 nat"])?;
    fs::remove_file(site.place.0.join("networks/3.xml"))?;
    wait_for(&["n1 nat", "n2 isolated"])?;
    let output = site.vnet("apply", &["--no-services", &site.networks()])?;
    ensure!(output.success()?.stdout == "no changes\n");
    site.write("2.xml", &file("n2", 2, NAT))?;
    let output = site.vnet("apply", &["--no-services", &site.networks()])?;
    ensure!(output.status.success(), "{output:?}");
    wait_for(&["n1 nat", "n2 nat"])?;
    // What is different has to fit.
    let output = {
        let path = site.place.0.join("1.xml");
        fs::write(&path, file("n1", 1, ISOLATED))?;
        site.vnet("apply", &["--no-services", &path.display().to_string()])?
    };
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(output.stderr.contains("network `n1`: there is no bridge `virbr1`"), "{output:?}");
    wait_for(&["n1 nat", "n2 nat"])?;
    // And its bridge may come back.
    site.host.bridge("virbr1", &["192.168.1.1/24"])?;
    wait_until("all is served", DEADLINE, || match site.state() {
        Ok(state) if state["networks"][0]["bridge_ifindex"] != 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    daemon.terminate(DEADLINE)?.success()?;
    for third in [1, 2, 3] {
        site.host.run(&["ip", "link", "delete", &format!("virbr{third}")])?;
    }
    site.assert_clean()
}

#[test]
fn settings_that_are_applied_alone_take_effect_at_once() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-settings")?;
    site.host.bridge("virbr0", &["192.168.122.1/24", "fd00:122::1/64"])?;
    site.write("n.xml", &site.network(NAT))?;
    let mut daemon = site.run(&[])?;
    let service = site.service()?;
    let apply = |arguments: &[&str], wanted: &str| -> Result<()> {
        let output = site.vnet("apply", &[arguments, &[&site.networks()]].concat())?.success()?;
        ensure!(output.stdout == wanted, "{output:?}");
        Ok(())
    };
    apply(&[], "no changes\n")?;
    ensure!(site.service()? == service);
    apply(&["--no-services"], "~ settings\n    no-services: (none) -> yes\n")?;
    ensure!(site.state()?["services"] == Value::Array(Vec::new()), "{}", site.state()?);
    let left = site.processes();
    ensure!(left.iter().all(|process| !process.contains("dnsmasq")), "{left:?}");
    apply(&[], "~ settings\n    no-services: yes -> (none)\n")?;
    site.service()?;
    site.host.run(&["ip", "link", "delete", "virbr0"])?;
    daemon.wait_for_line("network `n`: there is no bridge `virbr0`", DEADLINE)?;
    apply(&["--create-bridges"], "~ settings\n    create-bridges: (none) -> yes\n")?;
    site.host.run(&["ip", "link", "show", "virbr0"])?;
    daemon.terminate(DEADLINE)?.success()?;
    site.assert_clean()
}

#[test]
fn directory_that_goes_as_a_whole_takes_no_network_along() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-directory")?;
    site.host.bridge("virbr0", &["192.168.122.1/24", "fd00:122::1/64"])?;
    site.write("n.xml", &site.network(NAT))?;
    let mut daemon = site.run(&["--no-services"])?;
    let hooks = site.state()?["hooks"].clone();
    let (networks, aside) = (site.networks(), site.place.0.join("aside"));
    fs::rename(&networks, &aside)?;
    // What an unmounted file system leaves.
    fs::create_dir(&networks)?;
    daemon.wait_for_line("networks is another directory than before, and empty", DEADLINE)?;
    ensure!(site.state()?["hooks"] == hooks, "{}", daemon.stderr());
    // What comes there is applied, and what is deleted there goes.
    let second = "<network><name>second</name></network>";
    site.write("second.xml", second)?;
    daemon.wait_for_line("second.xml is ignored, what it said before stays", DEADLINE)?;
    site.write("n.xml", &site.network(ISOLATED))?;
    wait_until("the network is isolated", DEADLINE, || match site.state() {
        Ok(state) if state["networks"][0]["mode"] == "isolated" => Ok(()),
        other => Err(format!("{other:?}\n{}", daemon.stderr())),
    })?;
    fs::remove_file(Path::new(&networks).join("n.xml"))?;
    wait_until("the network is gone", DEADLINE, || match site.state() {
        Ok(state) if state["networks"].as_array().is_some_and(Vec::is_empty) => Ok(()),
        other => Err(format!("{other:?}\n{}", daemon.stderr())),
    })?;
    daemon.terminate(DEADLINE)?.success()?;
    site.host.run(&["ip", "link", "delete", "virbr0"])?;
    site.assert_clean()
}

#[test]
fn start_with_a_directory_leaves_out_what_does_not_fit_until_it_does() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-misfit")?;
    site.host.bridge("virbr0", &["192.168.122.1/24", "fd00:122::1/64"])?;
    let later = |subnet: u8| {
        format!(
            "<network><name>later</name><bridge name='virbr1'/>\
             <ip address='192.168.{subnet}.1' prefix='24'/></network>"
        )
    };
    site.write("a-broken.xml", "<network>")?;
    site.write("b-later.xml", &later(123))?;
    // The same subnet as `n`, which comes before it.
    site.write("z-twin.xml", &site.network(NAT).replace("<name>n<", "<name>twin<"))?;
    site.write("n.xml", &site.network(NAT))?;

    // What is named has to fit, and what is applied; nothing is changed.
    let path = site.place.0.join("networks/b-later.xml").display().to_string();
    let program = lifecycle::program()?;
    for command in ["run", "apply"] {
        let arguments = [command, "--instance", &site.instance, &path];
        let output = site.host.try_run(&[&[program.as_str()], &arguments[..]].concat())?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(output.stderr.contains("have vnet make it (`--create-bridges`)"), "{output:?}");
    }
    let output = site.vnet("apply", &[&site.networks()])?;
    ensure!(output.status.code() == Some(2), "{output:?}");

    let mut daemon = site.run(&["--no-services"])?;
    let served = || -> Result<Vec<String>> {
        let state = site.state()?;
        let networks = state["networks"].as_array().cloned().unwrap_or_default();
        Ok(networks.iter().map(|it| it["name"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let wait_for = |wanted: &[&str]| {
        wait_until(&format!("{wanted:?} are served"), DEADLINE, || match served() {
            Ok(served) if served == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        })
    };
    wait_for(&["n"])?;
    for ignored in [
        "a-broken.xml is ignored:",
        "b-later.xml is ignored for now: ",
        "z-twin.xml is ignored for now: ",
    ] {
        ensure!(daemon.stderr().contains(ignored), "{}", daemon.stderr());
    }
    site.host.bridge("virbr1", &["192.168.123.1/24"])?;
    // The change is made to its end.
    daemon.wait_for_line("+ later (isolated, virbr1, 192.168.123.0/24)", DEADLINE)?;
    wait_for(&["n", "later"])?;

    // What a file said before goes on when it does not fit at the next start, too.
    daemon.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    site.write("b-later.xml", &later(122))?;
    let mut daemon = site.run(&["--no-services"])?;
    ensure!(daemon.stderr().contains("b-later.xml is ignored for now: "), "{}", daemon.stderr());
    let state = site.state()?;
    ensure!(state["networks"][1]["subnets"][0] == "192.168.123.0/24", "{state}");
    daemon.terminate(DEADLINE)?.success()?;
    for bridge in ["virbr0", "virbr1"] {
        site.host.run(&["ip", "link", "delete", bridge])?;
    }
    site.assert_clean()
}

#[test]
fn start_with_an_empty_directory_waits_for_definitions() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-empty")?;
    let mut daemon = site.run(&["--create-bridges", "--no-services"])?;
    ensure!(site.state()?["networks"] == Value::Array(Vec::new()));
    site.write("n.xml", &site.network(NAT))?;
    wait_until("the network is served", DEADLINE, || match site.state() {
        Ok(state) if state["networks"][0]["name"] == "n" => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    fs::remove_file(site.place.0.join("networks/n.xml"))?;
    wait_until("the network has gone", DEADLINE, || match site.state() {
        Ok(state) if state["networks"] == Value::Array(Vec::new()) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let output = daemon.terminate(DEADLINE)?.success()?;
    ensure!(!output.stderr.contains("ERROR"), "{}", output.stderr);
    site.assert_clean()
}

#[test]
fn bridge_that_somebody_deletes_is_made_again_with_its_service() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-again")?;
    site.write("n.xml", &site.network(NAT))?;
    let mut daemon = site.run(&["--create-bridges"])?;
    let process = site.service()?;
    site.host.run(&["ip", "link", "delete", "virbr0"])?;
    wait_until("another process serves the new bridge", DEADLINE, || match site.service() {
        Ok(other) if other != process => Ok(()),
        other => Err(format!("{other:?}\n{}", daemon.stderr())),
    })?;
    let guest = site.lab.guest(&site.host, "virbr0", &Guest::veth("guest1"))?;
    udhcpc(&guest, &site.place)?;
    assert_reaches(&guest, &[OUTSIDE])?;
    site.lab.unplug(&site.host, &guest)?;
    daemon.terminate(DEADLINE)?.success()?;
    site.assert_clean()
}

#[test]
fn change_that_fails_leaves_no_bridge() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("daemon-fails")?;
    site.write("n.xml", &site.network(NAT))?;
    // Somebody else's interface has the name of the bridge.
    site.host.run(&["ip", "link", "add", "virbr1", "type", "veth", "peer", "other"])?;
    let second = "<network><name>second</name><bridge name='virbr1'/>\
                  <ip address='192.168.123.1' prefix='24'/></network>";
    let path = site.place.0.join("second.xml");
    fs::write(&path, second)?;
    let path = path.display().to_string();
    let output = site.vnet("apply", &["--create-bridges", &site.networks(), &path])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    site.host.run(&["ip", "link", "delete", "virbr1"])?;
    site.assert_clean()?;

    let output = site.vnet("apply", &["--create-bridges", "--dry-run", &site.networks()])?;
    ensure!(output.stdout == "+ n (nat, virbr0, 192.168.122.0/24, fd00:122::/64)\n", "{output:?}");
    site.assert_clean()
}
