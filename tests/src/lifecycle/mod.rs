//! `vnet run` on a host of the lab, from its start to its end, killed wherever a test wants.

mod foreign;
pub mod stations;
mod statistics;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

pub use foreign::{ForeignFilter, ForeignTcx, ForeignXdp, TCX_NEXT, TCX_PASS};
pub use statistics::Statistics;

use crate::lab::{HostState, Namespace, Output, Running, StandardLab, wait_until};
use crate::xdp;

/// How long a start, an end or a reaction may take, also on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Names the program to test, if it is not the one that was built with the tests.
const PROGRAM_VARIABLE: &str = "VNET_BIN";

/// What libvirt's default network is.
pub const DEFAULT_NETWORK: &str = "<network>
  <name>default</name>
  <forward mode='nat'/>
  <bridge name='virbr0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'/>
</network>
";

/// Hooks of the standard lab in the order of attachment, as steps of the start.
pub const HOOK_STEPS: [&str; 4] = [
    "attached-uplink_egress-eth0",
    "attached-uplink_ingress-eth0",
    "attached-bridge_egress-virbr0",
    "attached-bridge_ingress-virbr0",
];

/// The standard lab with a definition of its network, and an instance name of its own.
#[derive(Debug)]
pub struct Scene {
    /// The hosts.
    pub lab: StandardLab,
    /// The instance's name.
    pub instance: String,
    directory: PathBuf,
    before: HostState,
}

/// Makes the outside do so: XDP on a veth cannot tell which checksums are partial.
pub fn send_whole_checksums(lab: &StandardLab) -> Result<()> {
    lab.outside.run(&["ethtool", "-K", "eth0", "tx", "off"])?;
    Ok(())
}

impl Scene {
    /// The lab as it comes.
    pub fn new() -> Result<Self> {
        Self::with(|_| Ok(()))
    }

    /// The lab after `arrange` has changed it; what is there then is what must be there in the end.
    pub fn with(arrange: impl FnOnce(&StandardLab) -> Result<()>) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let instance = format!("life-{}-{serial}", process::id());
        let directory = env::temp_dir().join(format!("vnet-{instance}"));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("default.xml"), DEFAULT_NETWORK)?;
        let lab = StandardLab::new()?;
        arrange(&lab)?;
        // The search for duplicates of an address ends by itself, which is no change of vnet's.
        wait_until("no address is tentative", DEADLINE, || {
            let shown = lab.host.run(&["ip", "-o", "-6", "address", "show", "tentative"]);
            let shown = shown.map_err(|error| error.to_string())?;
            if shown.is_empty() { Ok(()) } else { Err(shown) }
        })?;
        let before = HostState::read(&lab.host)?;
        Ok(Self { lab, instance, directory, before })
    }

    /// One whose outside sends whole checksums, as a NIC delivers them.
    pub fn with_whole_checksums() -> Result<Self> {
        Self::with(send_whole_checksums)
    }

    /// Writes a file beside the definition; its path.
    pub fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// The path of the network's definition.
    #[must_use]
    pub fn definition(&self) -> String {
        self.directory.join("default.xml").display().to_string()
    }

    /// The directory of the instance's files.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        Path::new("/run/vnet").join(&self.instance)
    }

    /// Where the instance's services keep leases.
    fn leases(&self) -> PathBuf {
        Path::new("/var/lib/vnet").join(&self.instance)
    }

    /// What `state.json` says.
    pub fn state(&self) -> Result<Value> {
        let path = self.runtime_directory().join("state.json");
        Ok(serde_json::from_slice(&fs::read(&path).with_context(|| path.display().to_string())?)?)
    }

    /// `DIRECTION of INTERFACE` for each hook in `state.json`, but for those of short ways at ports.
    pub fn hooks(&self) -> Result<Vec<String>> {
        let state = self.state()?;
        let word = |hook: &Value, key: &str| hook[key].as_str().unwrap_or_default().to_owned();
        let hooks = state["hooks"].as_array().cloned().unwrap_or_default();
        Ok(hooks
            .iter()
            .filter(|hook| hook["program"] != "port_shortcut")
            .map(|hook| format!("{} of {}", word(hook, "direction"), word(hook, "interface")))
            .collect())
    }

    /// `vnet run` of the network with the instance's name.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        self.start_in(&self.lab.host, "none", arguments)
    }

    /// As [`Scene::start`], and waits until it is ready.
    pub fn ready(&self, arguments: &[&str]) -> Result<Running> {
        let running = self.start(arguments)?;
        running.wait_for_line("ready", DEADLINE)?;
        Ok(running)
    }

    /// As [`Scene::start`], and waits until it pauses at a step of the start.
    pub fn paused_at(&self, step: &str, arguments: &[&str]) -> Result<Running> {
        let running = self.start_in(&self.lab.host, step, arguments)?;
        running.wait_for_line(&format!("paused at {step}"), DEADLINE)?;
        Ok(running)
    }

    /// As [`Scene::start`] in any namespace, to be paused at a step.
    pub fn start_in(&self, at: &Namespace, step: &str, arguments: &[&str]) -> Result<Running> {
        self.start_as(at, &[&format!("VNET_PAUSE_AT={step}")], arguments)
    }

    /// As [`Scene::start_in`], with an environment.
    fn start_as(
        &self,
        at: &Namespace,
        environment: &[&str],
        arguments: &[&str],
    ) -> Result<Running> {
        let (program, definition) = (program()?, self.definition());
        let mut command = vec!["env"];
        command.extend(environment);
        command.extend([&program, "run", &definition, "--instance", &self.instance]);
        command.extend(xdp::arguments(arguments));
        command.extend(arguments);
        Ok(at.spawn(&command)?)
    }

    /// As [`Scene::ready`], with the BPF object of layout 1 that is kept in `tests/frozen`.
    pub fn ready_with_layout_1(&self, arguments: &[&str]) -> Result<Running> {
        let object = self.directory.join("layout-1.o");
        let frozen = Path::new(env!("CARGO_MANIFEST_DIR")).join("frozen/layout-1.o.gz");
        let unpacked = process::Command::new("gzip").arg("-dc").arg(&frozen).output()?;
        ensure!(unpacked.status.success(), "{}: {unpacked:?}", frozen.display());
        fs::write(&object, unpacked.stdout)?;
        let object = format!("VNET_TEST_OBJECT=1:{}", object.display());
        let running = self.start_as(&self.lab.host, &[&object], arguments)?;
        running.wait_for_line("ready", DEADLINE)?;
        Ok(running)
    }

    /// Runs `vnet` with these arguments to its end.
    pub fn vnet(&self, arguments: &[&str]) -> Result<Output> {
        let program = program()?;
        let mut command = vec![program.as_str()];
        command.extend(arguments);
        Ok(self.lab.host.try_run(&command)?)
    }

    /// `vnet detach` of the instance, which has to succeed in silence.
    pub fn detach(&self) -> Result<()> {
        let output = self.vnet(&["detach", "--instance", &self.instance])?;
        let seen = (output.status.code(), output.stdout.as_str(), output.stderr.as_str());
        ensure!(seen == (Some(0), "", ""), "vnet detach: {seen:?}");
        Ok(())
    }

    /// A copy of the program that every user may execute.
    pub fn copy_of_program(&self) -> Result<String> {
        let copy = self.directory.join("vnet");
        fs::copy(program()?, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(copy.display().to_string())
    }

    /// Waits until no process of the instance is left.
    pub fn wait_for_end(&self) -> Result<()> {
        wait_until("no process of the instance is left", DEADLINE, || {
            let left = self.processes();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        })?;
        Ok(())
    }

    /// Waits until no process of the instance is left, then compares the host with what it was.
    pub fn assert_clean(&self, when: &str) -> Result<()> {
        self.assert_clean_but_for(&[], when)
    }

    /// As [`Scene::assert_clean`], but for what the test itself has changed: facts that mention one
    /// of these words.
    pub fn assert_clean_but_for(&self, changed: &[&str], when: &str) -> Result<()> {
        self.wait_for_end()?;
        let difference = self.before.difference(&HostState::read(&self.lab.host)?);
        let difference: String = difference
            .lines()
            .filter(|line| !changed.iter().any(|word| line.contains(word)))
            .flat_map(|line| [line, "\n"])
            .collect();
        ensure!(difference.is_empty(), "{when}: the host is not as it was found:\n{difference}");
        let directory = self.runtime_directory();
        let left: Vec<_> = fs::read_dir(&directory)
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        ensure!(!directory.exists(), "{when}: {} is left: {left:?}", directory.display());
        // No guest of these scenes asks for an address.
        let leases = self.leases();
        ensure!(!leases.exists(), "{when}: {} is left", leases.display());
        Ok(())
    }

    /// Checks that a guest reaches the outside.
    pub fn assert_guests_get_out(&self) -> Result<()> {
        for guest in [&self.lab.tap_guest, &self.lab.veth_guest] {
            let ping = guest.ping("203.0.113.1", 3)?;
            ensure!((ping.sent, ping.received) == (3, 3), "{}: {ping:?}", guest.name());
        }
        Ok(())
    }

    /// Ends a daemon by a signal and checks that it was content and left the host as it was.
    pub fn stop(&self, running: Running, signal: Signal) -> Result<Output> {
        let output = self.stop_but_for(&[], running, signal)?;
        ensure!(!output.stderr.contains("ERROR"), "{}", output.stderr);
        Ok(output)
    }

    /// As [`Scene::stop`], but for facts that mention one of these words, and for errors on the way.
    pub fn stop_but_for(
        &self,
        changed: &[&str],
        mut running: Running,
        signal: Signal,
    ) -> Result<Output> {
        let output = running.signal_and_wait(signal, DEADLINE)?;
        let log = &output.stderr;
        ensure!(output.status.code() == Some(0), "{:?}\n{log}", output.status);
        ensure!(!log.contains("panicked"), "{log}");
        self.assert_clean_but_for(changed, &format!("after {signal}"))?;
        Ok(output)
    }

    /// Waits until the hooks in `state.json` are these, in any order.
    pub fn wait_for_hooks(&self, wanted: &[&str]) -> Result<()> {
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        wait_until(&format!("the hooks are {wanted:?}"), DEADLINE, || {
            let mut hooks = self.hooks().map_err(|error| format!("{error:#}"))?;
            hooks.sort_unstable();
            if hooks == wanted { Ok(()) } else { Err(format!("{hooks:?}")) }
        })?;
        Ok(())
    }

    /// Waits until a guest reaches an address.
    pub fn wait_until_reached(&self, address: &str) -> Result<()> {
        wait_until(&format!("guests reach {address}"), DEADLINE, || {
            match self.lab.tap_guest.ping(address, 1) {
                Ok(ping) if ping.received == 1 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok(())
    }

    /// The command lines of the instance's processes.
    fn processes(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let instance = self.instance.as_bytes();
        entries
            .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
            .filter(|line| line.split(|byte| *byte == 0).any(|argument| argument == instance))
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Left only by a test that has failed; the rest goes with its namespaces.
        let _ = fs::remove_dir_all(self.runtime_directory());
        let _ = fs::remove_dir_all(self.leases());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The `vnet` that was built with the tests.
pub fn program() -> Result<String> {
    let path = match env::var_os(PROGRAM_VARIABLE) {
        Some(path) => PathBuf::from(path),
        // TARGET/debug/deps/TEST beside TARGET/debug/vnet.
        None => env::current_exe()?.with_file_name("../vnet"),
    };
    let path = path
        .canonicalize()
        .with_context(|| format!("{} is not there: `cargo build` makes it", path.display()))?;
    Ok(path.display().to_string())
}
