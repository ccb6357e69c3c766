//! What `vnet run` refuses, in which words, and that it has changed nothing then.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{Output, require_root},
    lifecycle::{DEADLINE, DEFAULT_NETWORK, Scene, program},
};

fn assert_refused(scene: &Scene, output: &Output, wanted: &str) -> Result<()> {
    let seen = (output.status.code(), output.stdout.as_str(), output.stderr.as_str());
    ensure!(seen == (Some(2), "", wanted), "{seen:?}\nis not\n{wanted:?}");
    scene.assert_clean(wanted)
}

/// Runs a definition, with further arguments.
fn run(scene: &Scene, definition: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = vec!["run", definition, "--instance", &scene.instance];
    command.extend(arguments);
    scene.vnet(&command)
}

#[test]
fn definitions_that_do_not_fit_the_host_are_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let with_bridge = |name: &str, bridge: &str| {
        let text = DEFAULT_NETWORK.replace("'virbr0'", &format!("'{bridge}'"));
        scene.write(name, &text)
    };
    let missing = with_bridge("missing.xml", "virbr7")?;
    assert_refused(
        &scene,
        &run(&scene, &missing, &[])?,
        "error: network `default`: there is no bridge `virbr7` on this host; have vnet make \
         it (`--create-bridges`), or libvirt (`virsh net-start default`), or correct \
         <bridge name='virbr7'/>\n",
    )?;
    let other = with_bridge("other.xml", "eth0")?;
    assert_refused(
        &scene,
        &run(&scene, &other, &[])?,
        "error: network `default`: interface `eth0` is no bridge\n",
    )?;
    let macvtap = "<network>\n  <name>lan</name>\n  <forward mode='bridge'>\n    \
                   <interface dev='eth0'/>\n  </forward>\n</network>\n";
    let macvtap = scene.write("macvtap.xml", macvtap)?;
    let mut output = run(&scene, &macvtap, &[])?;
    let warnings = output.stderr.find("error: ").unwrap_or_default();
    let warnings: String = output.stderr.drain(..warnings).collect();
    let reason = "mode 'bridge' without `<bridge>` is macvtap, which bypasses the host";
    ensure!(warnings.contains(reason), "{warnings}");
    assert_refused(
        &scene,
        &output,
        "error: none of the definitions is of a kind that vnet serves: mode 'nat', 'route', \
         'open', or 'bridge' with a <bridge>, or no <forward>\n",
    )?;
    let text = DEFAULT_NETWORK.replace("mode='nat'", "mode='nat' dev='wan7'");
    let device = scene.write("device.xml", &text)?;
    assert_refused(
        &scene,
        &run(&scene, &device, &["--uplink", "wan8"])?,
        "error: network `default`: there is no interface `wan7` to forward to on this host\n\
         error: there is no interface `wan8` on this host, which `--uplink wan8` asks for\n",
    )
}

#[test]
fn bad_definition_is_refused_in_the_words_of_vnet_check() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let bad =
        scene.write("bad.xml", &DEFAULT_NETWORK.replace("192.168.122.1", "192.168.122.999"))?;
    let check = scene.vnet(&["check", &bad])?;
    ensure!(check.stderr.starts_with("error"), "{}", check.stderr);
    let wanted = check.stderr.replace("\n1 error\n", "");
    assert_refused(&scene, &run(&scene, &bad, &[])?, &wanted)?;
    let absent = format!("{bad}.absent");
    let check = scene.vnet(&["check", &absent])?;
    let wanted = check.stderr.replace("\n1 error\n", "");
    assert_refused(&scene, &run(&scene, &absent, &[])?, &wanted)
}

#[test]
fn uplinks_that_cannot_be_are_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let port = scene.lab.host.port_of("guest2").unwrap_or_default();
    let cases = [
        (
            "nowhere0",
            "there is no interface `nowhere0` on this host, which `--uplink nowhere0` asks for"
                .to_owned(),
        ),
        (
            "virbr0",
            "`--uplink virbr0`: this is the bridge of a network, not a way to outside".to_owned(),
        ),
        (
            &port,
            format!(
                "`--uplink {port}`: this is a port of `virbr0`, which has its traffic; name that"
            ),
        ),
    ];
    for (uplink, reason) in cases {
        let output = run(&scene, &scene.definition(), &["--uplink", uplink])?;
        assert_refused(&scene, &output, &format!("error: {reason}\n"))?;
    }
    Ok(())
}

#[test]
fn arguments_that_make_no_sense_are_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let cases: [(&[&str], &str); 3] = [
        (
            &["--max-flows", "0"],
            "error: invalid value '0' for '--max-flows <NUMBER>': 0 is not in 1..=16777216\n",
        ),
        (
            &["--max-flows", "many"],
            "error: invalid value 'many' for '--max-flows <NUMBER>': invalid digit found in string\n",
        ),
        (
            &["--attach", "xdp"],
            "error: invalid value 'xdp' for '--attach <HOOK>'\n  [possible values: auto, tcx, clsact]\n",
        ),
    ];
    let help = "\nFor more information, try '--help'.\n";
    for (arguments, wanted) in cases {
        let output = run(&scene, &scene.definition(), arguments)?;
        assert_refused(&scene, &output, &format!("{wanted}{help}"))?;
    }
    for name in ["", "..", "a/b", "a b", "ä", "x23456789012345678901234567890123"] {
        let output = scene.vnet(&["run", &scene.definition(), "--instance", name])?;
        let wanted = format!(
            "error: invalid value '{name}' for '--instance <NAME>': an instance name has 1 to 32 \
             letters, digits, `-` and `_`\n{help}"
        );
        if name.is_empty() {
            ensure!(output.status.code() == Some(2), "{output:?}");
        } else {
            assert_refused(&scene, &output, &wanted)?;
        }
    }
    Ok(())
}

#[test]
fn second_run_of_an_instance_is_refused_with_the_process_of_the_first() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    let (instance, process) = (scene.instance.clone(), running.id());
    let wanted = format!(
        "error: instance `{instance}` is already running (process {process}): stop it, or start \
         this one with `--instance OTHER`\n"
    );
    // From another network namespace as well.
    for host in [&scene.lab.host, &scene.lab.outside] {
        let output = scene.start_in(host, "none", &[])?.wait(DEADLINE)?;
        let seen = (output.status.code(), output.stdout.as_str(), output.stderr.as_str());
        ensure!(seen == (Some(2), "", &*wanted), "{seen:?}");
    }
    let output = scene.vnet(&["detach", "--instance", &instance])?;
    let wanted = format!(
        "error: instance `{instance}` is running (process {process}): end that process \
         first\n"
    );
    let seen = (output.status.code(), output.stdout.as_str(), output.stderr.as_str());
    ensure!(seen == (Some(2), "", &*wanted), "{seen:?}");
    scene.assert_guests_get_out()?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn missing_rights_are_named() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    // Not everybody may look into the directory of the build.
    let readable = scene.copy_of_program()?;
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let without = |set: &str| ["setpriv".to_owned(), format!("--bounding-set={set}")];
    let run = [&readable, "run", &scene.definition(), "--instance", &scene.instance];
    let detach = [&readable, "detach", "--instance", &scene.instance];
    let root = "run as root, or grant";
    let all = "CAP_NET_ADMIN CAP_BPF CAP_PERFMON";
    let set = "setcap cap_net_admin,cap_bpf,cap_perfmon+ep";
    let wanted = format!(
        "error: missing CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON: {root} {all} with `{set}` on the \
         program file or with AmbientCapabilities={all} in its systemd unit\n"
    );
    let output = scene.lab.host.try_run(&[&as_nobody[..], &run[..]].concat())?;
    assert_refused(&scene, &output, &wanted)?;
    let output = scene.lab.host.try_run(&[&as_nobody[..], &detach[..]].concat())?;
    let seen = (output.status.code(), output.stderr.as_str());
    ensure!(seen == (Some(2), &*wanted), "{seen:?}");

    let set = without("-net_admin");
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let output = scene.lab.host.try_run(&[&set[..], &run[..]].concat())?;
    assert_refused(
        &scene,
        &output,
        "error: missing CAP_NET_ADMIN: run as root, or grant CAP_NET_ADMIN with `setcap \
         cap_net_admin+ep` on the program file or with AmbientCapabilities=CAP_NET_ADMIN in its \
         systemd unit\n",
    )
}

#[test]
fn directory_of_definitions_is_served_and_macvtap_is_left_alone() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let macvtap = "<network><name>lan</name><forward dev='eth0' mode='private'/></network>";
    let file = scene.write("lan.xml", macvtap)?;
    let directory = file.trim_end_matches("/lan.xml").to_owned();
    let command = [&program()?, "run", &directory, "--instance", &scene.instance];
    let running = scene.lab.host.spawn(&command)?;
    running.wait_for_line("ready", DEADLINE)?;
    running.wait_for_line("mode 'private' is macvtap, which bypasses the host", DEADLINE)?;
    scene.assert_guests_get_out()?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}
