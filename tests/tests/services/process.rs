//! One dnsmasq: started, told of changes, and ended.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use vnet::{
    definition::Network,
    services::{
        Port,
        dnsmasq::{Change, DnsmasqError, Service},
        taken_port,
    },
};
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig};
use vnet_tests::lab::{Namespace, StandardLab, require_root, wait_until};

use super::support::*;

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
