//! dnsmasq as vnet runs it: real processes, real clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use vnet::{
    definition::{self, Network},
    services::{
        Port,
        dnsmasq::{Change, Directories, DnsmasqError, Service},
        taken_port,
    },
};
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig};
use vnet_tests::lab::{Namespace, StandardLab, require_root, wait_until};

const DEADLINE: Duration = Duration::from_secs(10);

fn network(xml: &str) -> Network {
    let mut loaded = definition::load_text(Path::new("test.xml"), xml);
    assert!(!loaded.report.has_errors(), "{}", loaded.report.render(definition::Severity::Warning));
    loaded.networks.remove(0)
}

fn definition(forward: &str, hosts: &str, records: &str) -> Network {
    network(&format!(
        "<network><name>default</name>{forward}<bridge name='virbr0'/><domain name='lab.example'/>\
         <dns>{records}</dns><ip address='192.168.122.1' prefix='24'><dhcp>\
         <range start='192.168.122.100' end='192.168.122.120'/>{hosts}</dhcp></ip></network>"
    ))
}

const NAT: &str = "<forward mode='nat'/>";

/// A directory of files that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vnet-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn directories(&self) -> Directories {
        Directories { runtime: self.0.join("run"), leases: self.0.join("leases") }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a failed test has left behind; nobody else has this directory.
        for pid in processes(self) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn serve(
    host: &Namespace,
    network: &Network,
    place: &Place,
) -> Result<(u32, Change), DnsmasqError> {
    in_namespace(host, async {
        let served = Service::serve(network, "virbr0", &place.directories(), None).await;
        served.map(|(service, change)| (service.pid(), change))
    })
}

fn in_namespace<T: Send>(host: &Namespace, work: impl Future<Output = T> + Send) -> T {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    })
    .unwrap()
}

#[test]
fn guest_is_lent_an_address_and_keeps_it_through_reload_and_restart() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let (host, guest) = (&lab.host, &lab.veth_guest);
    guest.run(&["ip", "address", "flush", "dev", "eth0"])?;
    let place = Place::new("services-lease");
    let mac = fs_of(guest, "/sys/class/net/eth0/address");

    let (first, change) = serve(host, &definition(NAT, "", ""), &place)?;
    assert_eq!(change, Change::Started);
    let lease = guest.dhcp("eth0", DEADLINE)?;
    assert!((100..=120).contains(&lease.address.octets()[3]), "{lease:?}");
    let gateway = Some(Ipv4Addr::new(192, 168, 122, 1));
    assert_eq!((lease.router, lease.name_server), (gateway, gateway));
    assert_eq!(owner(first), "dnsmasq or nobody");

    assert_eq!(serve(host, &definition(NAT, "", ""), &place)?, (first, Change::None));
    // A reservation for another guest and a record: the process goes on.
    let host_of_another = "<host mac='52:54:00:00:00:99' name='other' ip='192.168.122.50'/>";
    let record = "<host ip='192.168.122.7'><hostname>seven</hostname></host>";
    let changed = definition(NAT, host_of_another, record);
    assert_eq!(serve(host, &changed, &place)?, (first, Change::Reloaded));
    guest.add_address("eth0", &format!("{}/24", lease.address))?;
    let server = SocketAddr::new(IpAddr::V4(lease.server), 53);
    wait_until("the record to be served", DEADLINE, || {
        match guest.resolve(server, "seven.lab.example", DEADLINE) {
            Ok(found) if found == [Ipv4Addr::new(192, 168, 122, 7)] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    // Another configuration: a new process, and the same address for the guest.
    let text = "<txt name='a' value='b'/>";
    let (second, change) = serve(host, &definition(NAT, host_of_another, text), &place)?;
    assert_eq!(change, Change::Started);
    assert_ne!(first, second);
    guest.run(&["ip", "address", "flush", "dev", "eth0"])?;
    assert_eq!(guest.dhcp("eth0", DEADLINE)?.address, lease.address);
    let leases = fs::read_to_string(place.directories().leases.join("default.leases"))?;
    assert!(leases.contains(&format!("{mac} {}", lease.address)), "{leases}");

    stop(host, &place);
    assert_eq!(processes(&place), Vec::<u32>::new());
    assert_eq!(fs::read_dir(place.directories().runtime)?.count(), 0);
    Ok(())
}

#[test]
fn isolated_guest_has_no_default_route() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("services-isolated");
    lab.veth_guest.run(&["ip", "address", "flush", "dev", "eth0"])?;
    serve(&lab.host, &definition("", "", ""), &place)?;
    let lease = lab.veth_guest.dhcp("eth0", DEADLINE)?;
    assert_eq!((lease.router, lease.prefix_length), (None, 24));
    stop(&lab.host, &place);
    Ok(())
}

#[test]
fn process_that_is_gone_is_started_again_and_its_end_is_noticed() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("services-gone");
    let network = definition(NAT, "", "");
    in_namespace(&lab.host, async {
        let directories = place.directories();
        let (service, _) = Service::serve(&network, "virbr0", &directories, None).await.unwrap();
        let first = service.pid();
        let pid = nix::unistd::Pid::from_raw(first.cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        tokio::time::timeout(DEADLINE, service.ended()).await.expect("its end").unwrap();
        let (again, change) =
            Service::serve(&network, "virbr0", &directories, Some(service)).await.unwrap();
        assert_eq!(change, Change::Started);
        assert_ne!(again.pid(), first);
        // Another daemon finds it.
        let found = Service::find("default", &directories).unwrap().expect("the process");
        assert_eq!(found.pid(), again.pid());
        found.stop().await.unwrap();
        tokio::time::timeout(DEADLINE, again.ended()).await.expect("its end").unwrap();
    });
    Ok(())
}

#[test]
fn what_dnsmasq_says_is_passed_on() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("services-refused");
    let network = network(
        "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
         <name>default</name><forward mode='nat'/><bridge name='virbr0'/>\
         <ip address='192.168.122.1' prefix='24'/>\
         <dnsmasq:options><dnsmasq:option value='no-such-option'/></dnsmasq:options></network>",
    );
    let message = serve(&lab.host, &network, &place).unwrap_err().to_string();
    let config = place.directories().runtime.join("default.conf");
    assert_eq!(
        message,
        format!(
            "dnsmasq does not serve network `default`: bad option at line 8 of {}",
            config.display()
        )
    );
    assert_eq!(processes(&place), Vec::<u32>::new());
    Ok(())
}

#[test]
fn somebody_elses_service_is_seen_at_its_own_bridge_only() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let host = &lab.host;
    host.bridge("virbr1", &["192.168.123.1/24"])?;
    let taken = |bridge: &str, address: &str| {
        let addresses = [address.parse().unwrap()];
        host.enter(|| taken_port(bridge, &addresses)).unwrap().unwrap()
    };
    assert_eq!(taken("virbr0", "192.168.122.1"), None);
    assert_eq!(taken("virbr0", "fd00::1"), None);
    let range = Some(("192.168.122.100", "192.168.122.120"));
    let config =
        DnsmasqConfig { interface: "virbr0", dhcp_range: range, ..DnsmasqConfig::default() };
    let other = Dnsmasq::start(host, &config)?;
    assert_eq!(taken("virbr0", "192.168.122.1"), Some(Port::Dhcp));
    assert_eq!(taken("virbr1", "192.168.123.1"), None);
    drop(other);
    let names = DnsmasqConfig { interface: "virbr1", ..DnsmasqConfig::default() };
    let _other = Dnsmasq::start(host, &names)?;
    let address = "192.168.123.1";
    assert_eq!(taken("virbr1", address), Some(Port::Dns(address.parse()?)));
    assert_eq!(taken("virbr0", "192.168.122.1"), None);
    Ok(())
}

fn stop(host: &Namespace, place: &Place) {
    in_namespace(host, async {
        let service = Service::find("default", &place.directories()).unwrap().expect("a process");
        service.stop().await.unwrap();
    });
}

fn fs_of(namespace: &Namespace, path: &str) -> String {
    namespace.enter(|| fs::read_to_string(path)).unwrap().unwrap().trim_end().to_owned()
}

/// Processes that have a file of the place in their command line.
fn processes(place: &Place) -> Vec<u32> {
    let pids = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let wanted = place.0.to_str().unwrap().to_owned();
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&wanted)
        })
        .collect()
}

/// Who the process runs as.
fn owner(pid: u32) -> &'static str {
    use std::os::unix::fs::MetadataExt as _;
    let user = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    let known = ["dnsmasq", "libvirt-dnsmasq", "nobody"].into_iter().any(|name| {
        matches!(nix::unistd::User::from_name(name), Ok(Some(found)) if found.uid.as_raw() == user)
    });
    if known && user != 0 { "dnsmasq or nobody" } else { "somebody else" }
}
