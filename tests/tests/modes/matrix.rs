//! `vnet matrix`: what it says, and that its probes find what is there.

use std::{env, fs, process};

use serde_json::Value;
use vnet_tests::lab::{HostState, Output, require_root};
use vnet_tests::lifecycle::program;
use vnet_tests::modes::{Forward, Net, Rig};
use vnet_tests::vnet::Vnet;

fn rig() -> anyhow::Result<Rig> {
    let net = |name, forward, bridge, number: u8| {
        let addresses = [format!("10.10.{number}.1/24"), format!("2001:db8:{number}::1/64")];
        Net::new(name, forward, bridge, &addresses.each_ref().map(String::as_str))
    };
    Ok(Rig::new(vec![
        net("default", Forward::Nat, "virbr1", 1),
        net("tenant", Forward::RouteTo("upx"), "virbr2", 2),
        net("quiet", Forward::Isolated, "virbr3", 3),
        net("public", Forward::Route, "virbr4", 4),
    ])?)
}

const POLICY: &str = "\
NETWORK  MODE           TO HOST  TO OTHER GUESTS  TO OUTSIDE      FROM OUTSIDE
default  nat            yes      yes              IPv4: by NAT    IPv4: no
                                                  IPv6: yes       IPv6: yes
tenant   route dev=upx  yes      yes              yes (upx only)  yes (upx only)
quiet    isolated       yes      yes              no              no
public   route          yes      yes              yes             yes

Who may open connections to whom (rows to columns)
IPv4
             default  tenant  quiet  public  outside:upx  outside:upy  host
default      A        R       R      A*      A*           A*           A
tenant       R        A       R      R       A            R            A
quiet        R        R       A      R       R            R            A
public       R        R       R      A       A            A            A
outside:upx  R        A       R      A       -            A            A
outside:upy  R        R       R      A       A            -            A
host         A        A       A      A       A            A            -

IPv6
             default  tenant  quiet  public  outside:upx  outside:upy  host
default      A        R       R      A       A            A            A
tenant       R        A       R      R       A            R            A
quiet        R        R       A      R       R            R            A
public       A        R       R      A       A            A            A
outside:upx  A        A       R      A       -            A            A
outside:upy  A        R       R      A       A            -            A
host         A        A       A      A       A            A            -

A   accepted
A*  accepted, with an address of the host as the source
R   rejected with an ICMP port-unreachable
";

/// `NAME=NETNS` for every place that the matrix has.
fn probes(rig: &Rig) -> Vec<String> {
    let named = [
        ("default", "default.1"),
        ("default", "default.2"),
        ("tenant", "tenant.1"),
        ("quiet", "quiet.1"),
        ("public", "public.1"),
        ("outside:upx", "X"),
        ("outside:upy", "Y"),
    ];
    let mut probes = vec!["--probe".to_owned(), "host".to_owned()];
    for (name, place) in named {
        probes.extend(["--probe".to_owned(), format!("{name}={}", rig.place(place).node.path())]);
    }
    probes
}

fn matrix(vnet: &Vnet, arguments: &[String]) -> anyhow::Result<Output> {
    let arguments = arguments.iter().map(String::as_str);
    Ok(vnet.command(&["matrix"].into_iter().chain(arguments).collect::<Vec<_>>())?)
}

#[test]
fn matrix_shows_the_policy_of_a_running_instance() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = rig()?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let output = matrix(&vnet, &[])?.success()?;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), (POLICY, ""));
    vnet.stop()?;
    Ok(())
}

#[test]
fn matrix_shows_the_policy_that_definitions_would_have() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = rig()?;
    let (before, program) = (HostState::read(&rig.host)?, program()?);
    let directory = env::temp_dir().join(format!("vnet-matrix-{}", process::id()));
    fs::create_dir_all(&directory)?;
    for (number, definition) in rig.definitions().iter().enumerate() {
        fs::write(directory.join(format!("{number}.xml")), definition)?;
    }
    let path = directory.display().to_string();
    let output = rig.host.try_run(&[&program, "matrix", &path]);
    fs::remove_dir_all(&directory)?;
    let output = output?.success()?;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), (POLICY, ""));
    assert_eq!(before.difference(&HostState::read(&rig.host)?), "");
    Ok(())
}

#[test]
fn matrix_probes_agree_with_the_policy() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = rig()?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let output = matrix(&vnet, &probes(&rig))?;
    assert_eq!(output.status.code(), Some(0), "{}{}", output.stdout, output.stderr);
    // Every ordered pair of eight namespaces, two families, two protocols.
    let last = output.stdout.lines().last();
    assert_eq!(last, Some("224 probes: as the policy says"), "{}", output.stdout);

    let mut arguments = probes(&rig);
    arguments.extend(["-o".to_owned(), "json".to_owned()]);
    let output = matrix(&vnet, &arguments)?.success()?;
    let json: Value = serde_json::from_str(&output.stdout)?;
    let pairs = json["measured"]["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 112);
    let masqueraded = pairs
        .iter()
        .find(|pair| {
            pair["policy"] == "A*" && pair["to"].as_str().unwrap().starts_with("outside:upx")
        })
        .unwrap();
    assert_eq!(masqueraded["tcp"]["letter"], "A*");
    assert_eq!(masqueraded["tcp"]["seen"], "198.51.100.2");
    vnet.stop()?;
    Ok(())
}

#[test]
fn matrix_probes_tell_what_differs_from_the_policy() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = rig()?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let x = rig.place("X");
    x.node.nft(
        "table ip own {
           chain input { type filter hook input priority 0; meta l4proto udp drop; }
         }",
    )?;
    let namespaces = ["default.1", "X"].map(|name| rig.place(name).node.path());
    let probes = [
        "--probe".to_owned(),
        format!("default={}", namespaces[0]),
        "--probe".to_owned(),
        format!("outside:upx={}", namespaces[1]),
    ];
    let output = matrix(&vnet, &probes)?;
    assert_eq!(output.status.code(), Some(1), "{}{}", output.stdout, output.stderr);
    let (_, measured) = output.stdout.split_once("\nMeasured\n").unwrap();
    let [guest, outside] = namespaces;
    let difference =
        format!("default ({guest}) to outside:upx ({outside}) by UDP: A* expected; no answer");
    assert!(measured.lines().any(|line| line == difference), "{measured}");
    let last = measured.lines().last();
    assert_eq!(last, Some("8 probes: 1 pair differs from the policy"), "{measured}");
    vnet.stop()?;
    Ok(())
}

#[test]
fn matrix_refuses_probes_of_what_is_not_there() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = rig()?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    for (probes, error) in [
        (
            &["nobody=x", "host"][..],
            "error: there is no `nobody` to probe; there are default, tenant, quiet, public, \
             outside:upx, outside:upy, host\n",
        ),
        (
            &["tenant", "host"],
            "error: `--probe tenant` needs a network namespace: `--probe tenant=NETNS`\n",
        ),
        (&["host"], "error: probes need at least two places: repeat `--probe NAME=NETNS`\n"),
    ] {
        let arguments: Vec<String> =
            probes.iter().flat_map(|probe| ["--probe".to_owned(), (*probe).to_owned()]).collect();
        let output = matrix(&vnet, &arguments)?;
        assert_eq!((output.status.code(), output.stderr.as_str()), (Some(2), error));
    }
    vnet.stop()?;
    Ok(())
}
