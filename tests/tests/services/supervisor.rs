//! Every network's dnsmasq, kept running.

use std::{fs, process::Command};

use nix::{sys::signal::Signal, unistd::Pid};
use vnet::{
    definition::Network,
    instance::{self, Journal, Lock, Name, Undo, Whose},
    services::{self, Change, Supervisor},
};
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig};
use vnet_tests::lab::{Node, StandardLab, require_root};

use super::support::*;

/// A network of its own bridge, which gets another address by `number`.
fn on_bridge(number: u8, more: &str) -> Network {
    network(&format!(
        "<network><name>n{number}</name><forward mode='nat'/><bridge name='virbr{number}'/>\
         <ip address='192.168.{number}.1' prefix='24'><dhcp>\
         <range start='192.168.{number}.100' end='192.168.{number}.120'/>{more}</dhcp></ip>\
         </network>"
    ))
}

fn make_bridge(host: &Node, number: u8) -> anyhow::Result<()> {
    Ok(host.bridge(&format!("virbr{number}"), &[&format!("192.168.{number}.1/24")])?)
}

fn said(changes: &[Change]) -> Vec<String> {
    let said = |change: &Change| match change.to_string().split_once(" (process ") {
        Some((said, _)) => said.to_owned(),
        None => change.to_string(),
    };
    changes.iter().map(said).collect()
}

async fn apply(supervisor: &mut Supervisor, networks: &[Network]) -> Vec<String> {
    said(&supervisor.apply(&services::plan(networks)).await)
}

fn pid_of(supervisor: &Supervisor, network: &str) -> Option<u32> {
    supervisor.states().into_iter().find(|state| state.network == network)?.process
}

async fn next_change(supervisor: &mut Supervisor) -> Vec<String> {
    let due = tokio::time::timeout(DEADLINE, supervisor.wait()).await.expect("something is due");
    said(&supervisor.tend(due).await)
}

fn kill(pid: u32) {
    nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

#[test]
fn change_of_one_network_touches_its_process_only() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    make_bridge(&lab.host, 1)?;
    make_bridge(&lab.host, 2)?;
    let place = Place::new("supervisor-changes");
    in_namespace(&lab.host, async {
        let mut supervisor = Supervisor::new(place.directories());
        let both = [on_bridge(1, ""), on_bridge(2, "")];
        assert_eq!(
            apply(&mut supervisor, &both).await,
            ["dnsmasq of network `n1` started", "dnsmasq of network `n2` started"]
        );
        let (first, second) = (pid_of(&supervisor, "n1"), pid_of(&supervisor, "n2"));
        assert_eq!(apply(&mut supervisor, &both).await, [""; 0]);

        let host = "<host mac='52:54:00:00:00:99' name='other' ip='192.168.2.50'/>";
        let reserved = [on_bridge(1, ""), on_bridge(2, host)];
        assert_eq!(apply(&mut supervisor, &reserved).await, ["dnsmasq of network `n2` reloaded"]);
        assert_eq!((pid_of(&supervisor, "n1"), pid_of(&supervisor, "n2")), (first, second));

        let boot = [on_bridge(1, "<bootp file='pxelinux.0'/>"), on_bridge(2, host)];
        assert_eq!(
            apply(&mut supervisor, &boot).await,
            ["dnsmasq of network `n1` restarted with another configuration"]
        );
        assert_ne!(pid_of(&supervisor, "n1"), first);
        assert_eq!(pid_of(&supervisor, "n2"), second);

        assert_eq!(apply(&mut supervisor, &boot[..1]).await, ["dnsmasq of network `n2` stopped"]);
        assert_eq!(said(&supervisor.stop().await), ["dnsmasq of network `n1` stopped"]);
    });
    assert_eq!(processes(&place), Vec::<u32>::new());
    assert!(!place.directories().runtime.exists());
    Ok(())
}

#[test]
fn next_daemon_takes_processes_over_and_ends_those_of_networks_that_have_gone() -> anyhow::Result<()>
{
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    make_bridge(&lab.host, 1)?;
    make_bridge(&lab.host, 2)?;
    let place = Place::new("supervisor-takeover");
    in_namespace(&lab.host, async {
        let both = [on_bridge(1, ""), on_bridge(2, "")];
        let mut earlier = Supervisor::new(place.directories());
        apply(&mut earlier, &both).await;
        let first = pid_of(&earlier, "n1");
        drop(earlier);

        let mut supervisor = Supervisor::new(place.directories());
        assert_eq!(
            apply(&mut supervisor, &both[..1]).await,
            ["dnsmasq of network `n2` stopped", "dnsmasq of network `n1` found running"]
        );
        assert_eq!(pid_of(&supervisor, "n1"), first);
        assert_eq!(processes(&place), Vec::from_iter(first));

        // Also without its pid file, which another process's number is as good as.
        fs::write(place.directories().runtime.join("n1.pid"), "1\n").unwrap();
        let mut third = Supervisor::new(place.directories());
        assert_eq!(apply(&mut third, &both[..1]).await, ["dnsmasq of network `n1` found running"]);
        assert_eq!(pid_of(&third, "n1"), first);
        third.stop().await;
    });
    assert_eq!(processes(&place), Vec::<u32>::new());
    Ok(())
}

#[test]
fn number_of_another_process_in_a_pid_file_is_nobody_to_end() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    make_bridge(&lab.host, 1)?;
    let place = Place::new("supervisor-recycled");
    // In its own process group, so that it is this test's to end.
    let mut other = Command::new("sleep").arg("600").spawn()?;
    in_namespace(&lab.host, async {
        let directories = place.directories();
        fs::create_dir_all(&directories.runtime).unwrap();
        for ending in ["pid", "conf"] {
            let text = format!("{}\n", other.id());
            fs::write(directories.runtime.join(format!("gone.{ending}")), text).unwrap();
        }
        let text = format!("{}\n", other.id());
        fs::write(directories.runtime.join("n1.pid"), text).unwrap();
        let mut supervisor = Supervisor::new(directories);
        assert_eq!(
            apply(&mut supervisor, &[on_bridge(1, "")]).await,
            ["dnsmasq of network `n1` started"]
        );
        assert_ne!(pid_of(&supervisor, "n1"), Some(other.id()));
        supervisor.stop().await;
    });
    let lives = matches!(other.try_wait(), Ok(None));
    other.kill()?;
    other.wait()?;
    assert!(lives);
    assert!(!place.directories().runtime.exists());
    Ok(())
}

#[test]
fn process_that_died_is_started_at_once_and_then_after_longer_and_longer_pauses()
-> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    make_bridge(&lab.host, 1)?;
    let place = Place::new("supervisor-died");
    in_namespace(&lab.host, async {
        let mut supervisor = Supervisor::new(place.directories());
        apply(&mut supervisor, &[on_bridge(1, "")]).await;
        let first = pid_of(&supervisor, "n1").unwrap();
        kill(first);
        assert_eq!(
            next_change(&mut supervisor).await,
            [
                format!(
                    "dnsmasq of network `n1` has ended (it was process {first}): starting it again"
                ),
                "dnsmasq of network `n1` started".to_owned()
            ]
        );
        let second = pid_of(&supervisor, "n1").unwrap();
        kill(second);
        assert_eq!(
            next_change(&mut supervisor).await,
            [format!(
                "dnsmasq of network `n1` has ended (it was process {second}): next try in 1 s"
            )]
        );
        assert_eq!(pid_of(&supervisor, "n1"), None);
        assert_eq!(supervisor.states()[0].reason, Some(format!("process {second} has ended")));
        // Events of the host in between change nothing.
        assert_eq!(apply(&mut supervisor, &[on_bridge(1, "")]).await, [""; 0]);
        assert_eq!(next_change(&mut supervisor).await, ["dnsmasq of network `n1` started"]);
        supervisor.stop().await;
    });
    assert_eq!(processes(&place), Vec::<u32>::new());
    Ok(())
}

#[test]
fn bridge_that_somebody_else_serves_is_left_alone_until_he_goes() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    make_bridge(&lab.host, 1)?;
    let place = Place::new("supervisor-taken");
    let range = Some(("192.168.1.100", "192.168.1.120"));
    let config =
        DnsmasqConfig { interface: "virbr1", dhcp_range: range, ..DnsmasqConfig::default() };
    let other = Dnsmasq::start(&lab.host, &config)?;
    in_namespace(&lab.host, async {
        let mut supervisor = Supervisor::new(place.directories());
        let networks = [on_bridge(1, "")];
        assert_eq!(
            apply(&mut supervisor, &networks).await,
            [
                "network `n1`: somebody else serves DHCP (UDP port 67) on `virbr1` already, which is \
              left alone: no dnsmasq is started"
            ]
        );
        assert_eq!(apply(&mut supervisor, &networks).await, [""; 0]);
        assert_eq!(processes(&place), Vec::<u32>::new());
        drop(other);
        assert_eq!(apply(&mut supervisor, &networks).await, ["dnsmasq of network `n1` started"]);
        supervisor.stop().await;
    });
    Ok(())
}

#[test]
fn bridge_that_is_made_anew_gets_a_new_process() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("supervisor-bridge");
    in_namespace(&lab.host, async {
        let mut supervisor = Supervisor::new(place.directories());
        let networks = [on_bridge(1, "")];
        assert_eq!(
            apply(&mut supervisor, &networks).await,
            ["network `n1`: no dnsmasq, because there is no bridge `virbr1`"]
        );
        assert_eq!(apply(&mut supervisor, &networks).await, [""; 0]);
        make_bridge(&lab.host, 1).unwrap();
        assert_eq!(apply(&mut supervisor, &networks).await, ["dnsmasq of network `n1` started"]);
        let first = pid_of(&supervisor, "n1");
        lab.host.run(&["ip", "link", "delete", "virbr1"]).unwrap();
        make_bridge(&lab.host, 1).unwrap();
        assert_eq!(
            apply(&mut supervisor, &networks).await,
            ["dnsmasq of network `n1` restarted with another configuration"]
        );
        assert_ne!(pid_of(&supervisor, "n1"), first);
        lab.host.run(&["ip", "link", "delete", "virbr1"]).unwrap();
        assert_eq!(
            apply(&mut supervisor, &networks).await,
            [
                "dnsmasq of network `n1` stopped",
                "network `n1`: no dnsmasq, because there is no bridge `virbr1`"
            ]
        );
        supervisor.stop().await;
    });
    assert_eq!(processes(&place), Vec::<u32>::new());
    Ok(())
}

#[test]
fn services_of_a_dead_daemon_end_with_its_journal() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    make_bridge(&lab.host, 1)?;
    let place = Place::new("supervisor-journal");
    let name: Name = format!("services-{}", std::process::id()).parse()?;
    in_namespace(&lab.host, async {
        let lock = Lock::take(&name).unwrap();
        let mut journal = Journal::begin(&lock).unwrap();
        let directories = place.directories();
        journal.record(Undo::Services { runtime: directories.runtime.clone() }).unwrap();
        let mut supervisor = Supervisor::new(directories);
        apply(&mut supervisor, &[on_bridge(1, "")]).await;
        drop((supervisor, journal));
        assert_eq!(processes(&place).len(), 1);
        let outcome = instance::undo(&lock, Whose::Anybodys).await;
        assert!(outcome.is_complete(), "{outcome:?}");
        lock.release();
    });
    assert_eq!(processes(&place), Vec::<u32>::new());
    assert!(!place.directories().runtime.exists());
    assert!(place.directories().leases.join("n1.leases").exists());
    Ok(())
}
