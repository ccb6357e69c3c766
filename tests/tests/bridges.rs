//! Bridges that vnet makes, on a real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;

use serde_json::Value;
use vnet::{
    bridges::{self, Owner},
    definition::{self, Network},
    host,
    instance::{self, Journal, Lock, Name, Whose},
};
use vnet_tests::lab::{Guest, HostState, Ipv6Noise, Lab, Namespace, Node, require_root};

fn network(name: &str, bridge: &str, more: &str) -> Network {
    let xml = format!(
        "<network><name>{name}</name><forward mode='nat'/><bridge name='{bridge}' stp='off'/>\
         {more}</network>"
    );
    let mut loaded = definition::load_text(Path::new("test.xml"), &xml);
    assert!(!loaded.report.has_errors(), "{}", loaded.report.render(definition::Severity::Warning));
    loaded.networks.remove(0)
}

/// An instance of one test.
struct Site {
    lab: Lab,
    host: Node,
    name: Name,
    owner: Owner,
}

impl Site {
    fn new(test: &str) -> anyhow::Result<Self> {
        let lab = Lab::with_ipv6(Ipv6Noise::On)?;
        let host = lab.host("host")?;
        let instance = format!("{test}-{}", std::process::id());
        let owner = Owner { instance: instance.clone(), machine: "m".to_owned() };
        Ok(Self { lab, host, name: instance.parse()?, owner })
    }

    /// What `plan` says and `apply` does. The journal's lock goes, the journal stays.
    fn apply(&self, definitions: &[Network]) -> Vec<String> {
        in_namespace(&self.host, async {
            let lock = Lock::take(&self.name).unwrap();
            let mut journal = Journal::begin(&lock).unwrap();
            let host = host::snapshot().await.unwrap();
            for undo in bridges::of_owner(&host, &self.owner) {
                journal.record(undo).unwrap();
            }
            let steps = bridges::plan(definitions, &host, &self.owner);
            bridges::apply(&steps, &mut journal).await.unwrap();
            steps.iter().map(ToString::to_string).collect()
        })
    }

    /// What `vnet detach` does.
    fn undo(&self) {
        in_namespace(&self.host, async {
            let lock = Lock::take(&self.name).unwrap();
            let outcome = instance::undo(&lock, Whose::Anybodys).await;
            assert!(outcome.is_complete(), "{outcome:?}");
            lock.release();
        });
    }

    fn link(&self, name: &str) -> anyhow::Result<Value> {
        let text = self.host.run(&["ip", "-d", "-j", "link", "show", name])?;
        let links: Value = serde_json::from_str(&text)?;
        Ok(links[0].clone())
    }
}

fn in_namespace<T: Send>(host: &Namespace, work: impl Future<Output = T> + Send) -> T {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    })
    .unwrap()
}

fn has(host: &Node, link: &str) -> bool {
    host.try_run(&["ip", "link", "show", link]).unwrap().status.success()
}

const BOTH: &str = "<mtu size='9000'/><mac address='52:54:00:12:34:56'/>\
     <ip address='192.168.122.1' prefix='24'/>\
     <ip family='ipv6' address='fd00:122::1' prefix='64'/>";

#[test]
fn bridge_has_what_its_definition_says_and_goes_with_the_instance() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("bridges-made")?;
    let before = HostState::read(&site.host)?;
    let definitions = [network("default", "virbr0", BOTH)];
    let made = ["make bridge `virbr0` with 192.168.122.1/24, fd00:122::1/64"];
    assert_eq!(site.apply(&definitions), made);

    let link = site.link("virbr0")?;
    assert_eq!(link["linkinfo"]["info_kind"], "bridge");
    assert_eq!(link["linkinfo"]["info_data"]["stp_state"], 0);
    assert_eq!(link["linkinfo"]["info_data"]["forward_delay"], 0);
    assert_eq!((&link["mtu"], &link["address"]), (&9000.into(), &"52:54:00:12:34:56".into()));
    assert_eq!(link["ifalias"], format!("vnet {}: network default", site.owner.instance));
    assert!(link["flags"].as_array().unwrap().contains(&"UP".into()));
    let addresses = site.host.run(&["ip", "-o", "address", "show", "dev", "virbr0"])?;
    assert!(addresses.contains("inet 192.168.122.1/24 brd 192.168.122.255"), "{addresses}");
    // Usable at once, although there is no carrier.
    let ipv6 = addresses.lines().find(|line| line.contains("fd00:122::1/64")).unwrap();
    assert!(!ipv6.contains("tentative"), "{ipv6}");
    for (parameter, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("autoconf", "0")] {
        let name = format!("net/ipv6/conf/virbr0/{parameter}");
        assert_eq!(site.host.sysctl_value(&name)?, value, "{name}");
    }

    // Nothing to do any more; what has changed is done.
    assert_eq!(site.apply(&definitions), [""; 0]);
    let other = BOTH.replace("122.1'", "123.1'").replace("9000", "1500");
    assert_eq!(
        site.apply(&[network("default", "virbr0", &other)]),
        [
            "set the MTU 1500 of bridge `virbr0`",
            "add 192.168.123.1/24 to bridge `virbr0`",
            "take 192.168.122.1/24 off bridge `virbr0`"
        ]
    );
    assert_eq!(site.apply(&[network("default", "virbr0", &other)]), [""; 0]);
    site.undo();
    assert_eq!(before.difference(&HostState::read(&site.host)?), "");
    Ok(())
}

#[test]
fn spanning_tree_and_addresses_are_the_kernels_shortest_and_our_own() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("bridges-stp")?;
    let plain = network("plain", "virbr1", "<ip address='10.1.0.1' prefix='16'/>");
    let xml = "<network><name>stp</name><bridge name='virbr2' stp='on' delay='0'/>\
               <ip address='10.2.0.1' prefix='16'/></network>";
    let stp = definition::load_text(Path::new("stp.xml"), xml).networks.remove(0);
    site.apply(&[plain, stp]);
    assert_eq!(site.host.sysctl_value("net/ipv6/conf/virbr1/disable_ipv6")?, "1");
    let link = site.link("virbr2")?;
    assert_eq!(link["linkinfo"]["info_data"]["stp_state"], 1);
    assert_eq!(link["linkinfo"]["info_data"]["forward_delay"], 200);
    let mac = definition::MacAddress(site.owner.mac("stp"));
    assert_eq!(link["address"], mac.to_string());
    site.undo();
    assert!(!has(&site.host, "virbr1") && !has(&site.host, "virbr2"));
    Ok(())
}

#[test]
fn bridge_with_a_guest_on_it_stays_and_is_taken_over_and_removed_later() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("bridges-busy")?;
    let definitions = [network("default", "virbr0", BOTH)];
    site.apply(&definitions);
    let guest = site.lab.guest(&site.host, "virbr0", &Guest::veth("guest1"))?;
    site.undo();
    assert!(has(&site.host, "virbr0"));
    // The next run knows it as its own.
    assert_eq!(site.apply(&definitions), [""; 0]);
    let removal = |definitions: &[Network]| {
        in_namespace(&site.host, async {
            bridges::plan_removal(definitions, &host::snapshot().await.unwrap(), &site.owner)
        })
    };
    let port = site.host.port_of("guest1").unwrap();
    assert_eq!(removal(&[]).kept[0].ports, [port]);
    site.lab.unplug(&site.host, &guest)?;
    assert_eq!(removal(&[]).steps[0].to_string(), "delete bridge `virbr0`");
    assert_eq!(removal(&definitions), bridges::Removal::default());
    site.undo();
    assert!(!has(&site.host, "virbr0"));
    Ok(())
}

#[test]
fn bridge_of_somebody_else_is_neither_changed_nor_removed() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("bridges-foreign")?;
    site.host.bridge("virbr0", &["192.168.122.1/24"])?;
    let before = HostState::read(&site.host)?;
    assert_eq!(site.apply(&[network("default", "virbr0", BOTH)]), [""; 0]);
    site.undo();
    assert_eq!(before.difference(&HostState::read(&site.host)?), "");
    Ok(())
}

#[test]
fn step_that_fails_takes_those_before_it_back() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new("bridges-failed")?;
    let before = HostState::read(&site.host)?;
    let message = in_namespace(&site.host, async {
        let lock = Lock::take(&site.name).unwrap();
        let mut journal = Journal::begin(&lock).unwrap();
        let host = host::snapshot().await.unwrap();
        let definitions = [
            network("a", "virbr0", "<ip address='10.1.0.1' prefix='16'/>"),
            network("b", "virbr1", "<ip address='10.2.0.1' prefix='16'/>"),
        ];
        let steps = bridges::plan(&definitions, &host, &site.owner);
        // Somebody else is faster.
        site.host.run(&["ip", "link", "add", "virbr1", "type", "bridge"]).unwrap();
        let error = bridges::apply(&steps, &mut journal).await.unwrap_err();
        site.host.run(&["ip", "link", "delete", "virbr1"]).unwrap();
        error.to_string()
    });
    assert_eq!(
        message,
        "cannot make bridge `virbr1` with 10.2.0.1/16: cannot make the bridge: File exists (os error 17)"
    );
    assert_eq!(before.difference(&HostState::read(&site.host)?), "");
    site.undo();
    Ok(())
}
