//! Another layout, another size: the flows go on in other tables.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vnet_tests::{
    lab::{Running, SteadyOpening, require_root, services::UdpEcho, wait_until},
    lifecycle::{DEADLINE, Scene},
};

use crate::support::*;

/// Steps of a migration.
const STEPS: [&str; 10] = [
    "migration-prepared",
    "migration-uplink_egress-eth0",
    "migration-bridge_ingress-virbr0",
    "migration-attached",
    "migration-shared",
    "migration-adopted",
    "migration-done",
    "migration-committed",
    "loaded",
    "attached-bridge_ingress-virbr0",
];

/// How much of what was forwarded has to be in the flows' counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    All,
    /// Only the process that copies a flow knows what is added meanwhile, so that this is missing if it
    /// dies.
    AtMostAll,
}

/// What is at the hooks before.
#[derive(Clone, Copy)]
enum From {
    Layout1,
    OtherSize,
}

impl From {
    fn start(self, scene: &Scene, attach: &str) -> Result<Running> {
        match self {
            Self::Layout1 => scene.ready_with_layout_1(&["--attach", attach]),
            Self::OtherSize => scene.ready(&["--attach", attach, "--max-flows", "5000"]),
        }
    }

    /// Options of the start after it.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Layout1 => &[],
            Self::OtherSize => &["--max-flows", "7000"],
        }
    }

    fn limit(self) -> u64 {
        match self {
            Self::Layout1 => 1 << 18,
            Self::OtherSize => 7000,
        }
    }
}

fn flows(scene: &Scene) -> Result<Vec<Value>> {
    let output = scene.vnet(&["flows", "-o", "json", "--instance", &scene.instance])?;
    let flows: Value = serde_json::from_str(&output.stdout).context(output.stderr)?;
    Ok(flows.as_array().context("no list of flows")?.clone())
}

/// What tells a flow.
fn names(flows: &[Value]) -> BTreeSet<String> {
    let name = |flow: &Value| {
        format!("{} {} {} {}", flow["protocol"], flow["inside"], flow["outside"], flow["remote"])
    };
    flows.iter().map(name).collect()
}

/// Traffic and new flows, all the time.
struct Load {
    traffic: Traffic,
    opening: SteadyOpening,
    echo: UdpEcho,
}

impl Load {
    fn start(scene: &Scene) -> Result<Self> {
        let echo = UdpEcho::start(&scene.lab.outside, format!("{OUTSIDE}:9000").parse()?)?;
        let (from, interval) = ("192.168.122.12:20000".parse()?, Duration::from_millis(5));
        let guest = &scene.lab.veth_guest;
        let opening = SteadyOpening::start(guest, from, echo.address(), interval)?;
        Ok(Self { traffic: Traffic::start(scene)?, opening, echo })
    }

    /// Nothing was lost, no flow has got another port, and the accounts are right.
    fn finish(self, scene: &Scene, wanted: Counted) -> Result<()> {
        let is_right = |count: u64, all: u64| match wanted {
            Counted::All => count == all,
            Counted::AtMostAll => (1..=all).contains(&count),
        };
        let (opened, failures) = self.opening.finish();
        ensure!(opened > 100 && failures.is_empty(), "{opened} opened, {failures:?}");
        // Two datagrams each while it was opened, and one in the end.
        let peers: BTreeSet<_> = self.echo.peers().into_iter().collect();
        ensure!(peers.len() == opened, "{} ports of {opened} flows", peers.len());
        let sent = self.traffic.finish()?;
        let flows = flows(scene)?;
        let port = |flow: &Value| flow["inside"]["port"].as_u64().unwrap_or(0);
        let steady = flows.iter().find(|flow| port(flow) == 4000).context("no flow")?;
        for direction in ["outbound", "inbound"] {
            let counted = steady[direction]["packets"].as_u64().context("no count")?;
            ensure!(is_right(counted, sent), "{sent} datagrams sent: {steady}");
        }
        let others = flows.iter().filter(|flow| flow["remote"]["port"] == 9000);
        let packets = |flow: &Value| flow["outbound"]["packets"].as_u64();
        let counted: Vec<_> = others.map(|flow| packets(flow).unwrap_or(0)).collect();
        ensure!(counted.len() == opened, "{} of {opened} flows", counted.len());
        ensure!(counted.iter().all(|packets| is_right(*packets, 3)), "{counted:?}");
        Ok(())
    }
}

fn upgrade(from: From) -> Result<()> {
    for attach in ["tcx", "clsact"] {
        let scene = Scene::new()?;
        let first = from.start(&scene, attach)?;
        let load = Load::start(&scene)?;
        wait_until("a hundred flows are there", DEADLINE, || match flows(&scene) {
            Ok(flows) if flows.len() > 100 => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        kill(first)?;
        let before = names(&flows(&scene)?);
        let second = scene.ready(from.arguments())?;
        second.wait_for_line("flows go on", DEADLINE)?;
        let after = names(&flows(&scene)?);
        let lost: Vec<_> = before.difference(&after).collect();
        ensure!(lost.is_empty(), "{attach}: {lost:?}");
        ensure!(scene.state()?["layout"] == 2, "{}", scene.state()?);
        ensure!(scene.state()?["flow_limit"] == from.limit(), "{}", scene.state()?);
        load.finish(&scene, Counted::All).context(attach)?;
        let output = scene.stop(second, Signal::SIGTERM)?;
        ensure!(!output.stderr.contains("begin anew"), "{}", output.stderr);
    }
    Ok(())
}

#[test]
fn flows_of_the_former_layout_go_on_without_a_loss() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    upgrade(From::Layout1)
}

#[test]
fn flows_go_on_in_tables_of_another_size_without_a_loss() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    upgrade(From::OtherSize)
}

#[test]
fn migration_that_is_killed_anywhere_goes_on_with_the_next_start() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for step in STEPS {
        let scene = Scene::new()?;
        kill(scene.ready_with_layout_1(&[])?)?;
        let load = Load::start(&scene)?;
        kill(scene.paused_at(step, &[])?).context(step)?;
        scene.wait_for_end()?;
        kill(scene.ready(&[])?).context(step)?;
        load.finish(&scene, Counted::AtMostAll).context(step)?;
        println!("killed at {step}: no loss");
        scene.detach()?;
        scene.assert_clean(&format!("after {step}"))?;
    }
    Ok(())
}

#[test]
fn migration_that_is_killed_at_its_end_is_followed_by_another_one() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (from, step) in [
        (From::Layout1, "migration-committed"),
        (From::OtherSize, "migration-committed"),
        (From::OtherSize, "migration-moved"),
        (From::OtherSize, "migration-replaced"),
    ] {
        let scene = Scene::new()?;
        kill(from.start(&scene, "auto")?)?;
        let load = Load::start(&scene)?;
        kill(scene.paused_at("migration-committed", from.arguments())?)?;
        if step != "migration-committed" {
            // As it is within the commit: nobody needs what the former maps say any more.
            let pins = format!("/sys/fs/bpf/vnet/{}", scene.instance);
            scene.lab.host.run(&["mkdir", &format!("{pins}/former")])?;
            scene.lab.host.run(&["ln", "-s", "2", &format!("{pins}/former/LAYOUT")])?;
            if step == "migration-moved" {
                let (maps, next) = (format!("{pins}/maps"), format!("{pins}/next"));
                scene.lab.host.run(&["mv", &maps, &next])?;
            }
        }
        scene.wait_for_end()?;
        let last = scene.ready(&["--max-flows", "6000"])?;
        last.wait_for_line("flows go on", DEADLINE)?;
        ensure!(scene.state()?["flow_limit"] == 6000, "{}", scene.state()?);
        load.finish(&scene, Counted::AtMostAll)?;
        scene.stop(last, Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn hook_that_nobody_has_written_down_is_migrated_as_well() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for attach in ["tcx", "clsact"] {
        let scene = Scene::with(|lab| Ok(lab.host.bridge("virbr1", &["192.168.123.1/24"])?))?;
        let second = named("second", NAT, "virbr1", "<ip address='192.168.123.1' prefix='24'/>");
        let second = scene.write("second.xml", &second)?;
        kill(scene.ready(&["--attach", attach])?)?;
        kill(scene.paused_at("attached-bridge_ingress-virbr1", &[&second])?)?;
        scene.wait_for_end()?;
        let hooks = scene.hooks()?;
        ensure!(!hooks.contains(&"ingress of virbr1".to_owned()), "{hooks:?}");
        let step = "migration-bridge_ingress-virbr1";
        kill(scene.paused_at(step, &[&second, "--max-flows", "7000"])?).context(attach)?;
        scene.wait_for_end()?;
        scene.detach()?;
        scene.assert_clean(attach)?;
    }
    Ok(())
}

#[test]
fn migration_that_is_killed_anywhere_can_be_taken_down() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for step in STEPS {
        let scene = Scene::new()?;
        kill(scene.ready_with_layout_1(&[])?)?;
        kill(scene.paused_at(step, &[])?).context(step)?;
        scene.wait_for_end()?;
        scene.assert_guests_get_out().context(step)?;
        scene.detach()?;
        scene.assert_clean(&format!("after {step}"))?;
    }
    Ok(())
}

#[test]
fn dry_run_says_what_would_be_migrated_and_what_would_end_flows_is_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    kill(scene.ready_with_layout_1(&["--max-flows", "5000"])?)?;
    let echo = UdpEcho::start(&scene.lab.outside, format!("{OUTSIDE}:7").parse()?)?;
    for _ in 0..3 {
        ensure!(scene.lab.tap_guest.udp_ask(echo.address(), b"open", DEADLINE)? == b"open");
    }
    let definition = scene.definition();
    let run = |more: &[&str]| {
        let command = ["run", &definition, "--instance", &scene.instance];
        scene.vnet(&[&command, more].concat())
    };
    let output = apply(&scene, &[&definition, "--dry-run"])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let said = "flows will be migrated, because version 0.1.0 has tables of another layout";
    ensure!(output.stderr.contains(said), "{output:?}");

    let output = run(&["--max-flows", "2"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let said = format!(
        "instance `{}` has 3 open flows, more than `--max-flows 2` has room for",
        scene.instance
    );
    ensure!(output.stderr.contains(&said), "{output:?}");

    // What a later version has left.
    kill(scene.ready(&[])?)?;
    let mark = format!("/sys/fs/bpf/vnet/{}/maps/LAYOUT", scene.instance);
    scene.lab.host.run(&["ln", "-sfn", "3", &mark])?;
    let output = apply(&scene, &[&definition])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let said = "whose tables (layout 3) this older version does not know (layout 2): start that \
                version again, or end all flows with `vnet detach";
    ensure!(output.stderr.contains(said), "{output:?}");
    scene.assert_guests_get_out()?;
    scene.detach()?;
    scene.assert_clean("after detach")
}
