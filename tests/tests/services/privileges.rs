//! Which rights dnsmasq needs of a daemon that has no others.

use std::env;

use vnet::services::{self, Supervisor};
use vnet_tests::lab::{Namespace, Output, StandardLab, require_root};

use super::support::*;

/// What the units give beyond what the programs need.
const FOR_DNSMASQ: [&str; 5] = ["net_admin", "net_bind_service", "net_raw", "setgid", "setuid"];
/// To signal a process of another user.
const FOR_SIGNALS: &str = "kill";
/// Where the part that runs with few rights has its files.
const PLACE_VARIABLE: &str = "VNET_TEST_PLACE";

/// Runs [`start_reload_and_stop`] as root with these capabilities and no others.
fn run_with(host: &Namespace, place: &Place, capabilities: &[&str]) -> anyhow::Result<Output> {
    let set = format!("-all,+{}", capabilities.join(",+"));
    let variable = format!("{PLACE_VARIABLE}={}", place.0.display());
    let test = env::current_exe()?.display().to_string();
    let name = "privileges::start_reload_and_stop";
    let command = [
        "setpriv",
        "--bounding-set",
        &set,
        "--inh-caps",
        "-all",
        "env",
        &variable,
        &test,
        "--exact",
        name,
        "--ignored",
        "--nocapture",
    ];
    Ok(host.try_run(&command)?)
}

fn said(output: &Output) -> Vec<&str> {
    output.stdout.lines().filter_map(|line| line.strip_prefix("said: ")).collect()
}

#[test]
#[ignore = "a part of the tests below, which run it as a process of its own"]
fn start_reload_and_stop() {
    let Some(path) = env::var_os(PLACE_VARIABLE) else { return };
    let directories = services::dnsmasq::Directories {
        runtime: std::path::Path::new(&path).join("run"),
        leases: std::path::Path::new(&path).join("leases"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut supervisor = Supervisor::new(directories);
        let host = "<host mac='52:54:00:00:00:99' name='other' ip='192.168.122.50'/>";
        let mut changes = Vec::new();
        for hosts in ["", host] {
            let network = definition(NAT, hosts, "");
            changes.extend(supervisor.apply(&services::plan(&[network])).await);
        }
        changes.extend(supervisor.stop().await);
        for change in changes {
            println!("said: {change}");
        }
    });
}

#[test]
fn dnsmasq_runs_with_the_capabilities_of_the_units() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("privileges-all");
    let mut capabilities = FOR_DNSMASQ.to_vec();
    capabilities.push(FOR_SIGNALS);
    let output = run_with(&lab.host, &place, &capabilities)?.success()?;
    let said = said(&output);
    assert_eq!(said.len(), 3, "{said:?}{}", output.stderr);
    assert!(said[0].starts_with("dnsmasq of network `default` started (process "), "{said:?}");
    assert!(said[1].starts_with("dnsmasq of network `default` reloaded (process "), "{said:?}");
    assert_eq!(said[2], "dnsmasq of network `default` stopped");
    assert_eq!(processes(&place), Vec::<u32>::new());
    Ok(())
}

#[test]
fn each_capability_that_dnsmasq_lacks_is_told() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let refused = "dnsmasq does not serve network `default`";
    let messages = [
        format!("{refused}: process is missing required capability NET_ADMIN"),
        "cannot ask who serves bridge `virbr0` of network `default`: Permission denied (os error \
         13); ports 53 and 67 need CAP_NET_BIND_SERVICE"
            .to_owned(),
        format!("{refused}: process is missing required capability NET_RAW"),
        format!("{refused}: failed to change group-id to "),
        format!("{refused}: setting capabilities failed: Operation not permitted: next try in 1 s"),
    ];
    for (without, message) in FOR_DNSMASQ.iter().zip(messages) {
        let place = Place::new(&format!("privileges-{without}"));
        let mut capabilities: Vec<_> =
            FOR_DNSMASQ.into_iter().filter(|name| name != without).collect();
        capabilities.push(FOR_SIGNALS);
        let output = run_with(&lab.host, &place, &capabilities)?.success()?;
        let said = said(&output);
        assert!(said[0].starts_with(&message), "without {without}: {said:?}{}", output.stderr);
    }
    Ok(())
}

#[test]
fn daemon_that_may_not_signal_other_users_says_so() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("privileges-kill");
    let output = run_with(&lab.host, &place, &FOR_DNSMASQ)?.success()?;
    let refused = "cannot signal dnsmasq of network `default`: Operation not permitted (os error 1); \
                   it runs as another user, which needs CAP_KILL";
    let said = said(&output);
    assert_eq!(said[1..], [format!("{refused}: next try in 1 s"), refused.to_owned()]);
    Ok(())
}
