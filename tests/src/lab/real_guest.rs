//! A guest in a virtual machine, with a kernel, a virtio NIC and a tap as those of a hypervisor.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, ExitStatus};
use std::time::Duration;

use super::background::{patient, wait_until};
use super::error::{Error, Result, While};
use super::guest::PortKind;
use super::link::{ETHERNET_MTU, mac, wait_for_port};
use super::node::{Link, Node};
use super::process::{Output, Running};
use super::require_kernel::skip;
use super::require_root::require_root;
use super::tap;
use super::topology::Lab;

/// Names a directory with a kernel, its arguments and an initramfs, which `cargo xtask test` has made
/// (`xtask/src/vm/real_guest.rs`).
const VARIABLE: &str = "VNET_TEST_GUEST";
/// Until QEMU has started.
const START: Duration = Duration::from_secs(20);
/// Until the guest's kernel has, on a translated processor.
const BOOT: Duration = Duration::from_secs(120);
/// Every offload that a virtio NIC has for TCP, in both directions.
const OFFLOADS: &str = "csum=on,gso=on,guest_csum=on,guest_tso4=on,guest_tso6=on,guest_ecn=on,\
     host_tso4=on,host_tso6=on,host_ecn=on";

/// True for root with what a guest boots from. Otherwise prints why the calling test is skipped, or
/// fails it if `VNET_TEST_REQUIRE` holds the word `guest`, as in CI.
///
/// # Panics
/// As told above.
#[must_use]
pub fn require_real_guests() -> bool {
    require_root()
        && (env::var_os(VARIABLE).is_some()
            || skip(
                "guest",
                "no guest to boot: `cargo xtask test` makes one where it finds Debian's packages",
            ))
}

/// A guest in QEMU, which ends when this value is dropped.
#[derive(Debug)]
pub struct RealGuest {
    name: String,
    port: String,
    qemu: Running,
    agent: BufReader<UnixStream>,
}

impl Lab {
    /// Starts a guest in QEMU with 256 MiB and one processor, in the host's namespace, and plugs its
    /// tap into a bridge. Its NIC `eth0` is down, and the port is called `vnetN`.
    ///
    /// [`RealGuest::wait_until_booted`] comes next.
    pub fn boot(&self, host: &Node, bridge: &str, name: &str) -> Result<RealGuest> {
        let serial = self.next_serial();
        let (mac, port_mac) = (mac("52:54", serial), mac("fe:54", serial));
        let port = format!("vnet{serial}");
        tap::make_idle(host, std::slice::from_ref(&port))?;
        host.ip_batch(&[format!("link set {port} address {port_mac} master {bridge} up")])?;

        // An abstract name belongs to the network namespace, so nothing is left in a file system.
        let channel = format!("vnet-agent-{}-{port}", process::id());
        let listener = host
            .enter(|| {
                let address = SocketAddr::from_abstract_name(&channel)?;
                let listener = UnixListener::bind_addr(&address)?;
                listener.set_nonblocking(true)?;
                Ok::<_, std::io::Error>(listener)
            })?
            .during(|| format!("listen to guest {name}"))?;
        let mut qemu = start(host, &port, &mac, &channel)?;
        wait_for_port(host, &port).map_err(|error| with_output(&error, &qemu))?;
        let agent = accept(&listener, &mut qemu)?;

        let link =
            Link::Port { bridge: bridge.to_owned(), guest: name.to_owned(), kind: PortKind::Tap };
        host.record(&port, &[], ETHERNET_MTU, link);
        Ok(RealGuest { name: name.to_owned(), port, qemu, agent: BufReader::new(agent) })
    }
}

impl RealGuest {
    /// The bridge's port, a tap.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Waits until it takes commands.
    pub fn wait_until_booted(&mut self) -> Result<()> {
        self.answer("the boot", BOOT).map(drop)
    }

    /// Runs a line of shell in the guest, with busybox's commands, to its end, in a directory that can
    /// be written to; what it prints, standard output and error as one.
    ///
    /// # Errors
    /// [`Error::Command`] if its status is not 0.
    pub fn run(&mut self, line: &str, deadline: Duration) -> Result<String> {
        Ok(self.try_run(line, deadline)?.success()?.stdout)
    }

    /// As [`RealGuest::run`], whatever its status.
    pub fn try_run(&mut self, line: &str, deadline: Duration) -> Result<Output> {
        let sent = self.agent.get_mut().write_all(format!("{line}\n").as_bytes());
        sent.during(|| format!("send `{line}` to guest {}", self.name))?;
        self.answer(line, deadline)
    }

    /// Reads a line `CODE BYTES` and so many bytes.
    fn answer(&mut self, command: &str, deadline: Duration) -> Result<Output> {
        let what = format!("answer of guest {} to `{command}`", self.name);
        let result = self.read_answer(deadline);
        let (code, printed) = result.map_err(|error| {
            Error::unexpected(what, format!("{error}\n--- console\n{}", self.qemu.stdout()))
        })?;
        Ok(Output {
            command: command.to_owned(),
            namespace: self.name.clone(),
            status: ExitStatus::from_raw(code << 8),
            stdout: printed,
            stderr: String::new(),
        })
    }

    fn read_answer(&mut self, deadline: Duration) -> std::io::Result<(i32, String)> {
        self.agent.get_ref().set_read_timeout(Some(patient(deadline)))?;
        let mut line = String::new();
        self.agent.read_line(&mut line)?;
        let numbers = line.trim().split_once(' ');
        let numbers = numbers.and_then(|(code, bytes)| {
            Some((code.parse::<i32>().ok()?, bytes.parse::<usize>().ok()?))
        });
        let Some((code, bytes)) = numbers else {
            return Err(std::io::Error::new(ErrorKind::InvalidData, format!("{line:?}")));
        };
        let mut printed = vec![0; bytes];
        self.agent.read_exact(&mut printed)?;
        Ok((code, String::from_utf8_lossy(&printed).into_owned()))
    }
}

fn start(host: &Node, port: &str, mac: &str, channel: &str) -> Result<Running> {
    let directory = env::var_os(VARIABLE).map(PathBuf::from).unwrap_or_default();
    let [kernel, initramfs] =
        ["kernel", "initramfs"].map(|name| directory.join(name).display().to_string());
    let arguments = directory.join("arguments");
    let arguments =
        fs::read_to_string(&arguments).during(|| format!("read {}", arguments.display()))?;
    let chardev = format!("socket,id=agent,path={channel},abstract=on");
    let tap = format!("tap,id=nic,ifname={port},script=no,downscript=no,vhost=off,vnet_hdr=on");
    // Without the ROM to boot from the network, which is another package.
    let nic = format!("virtio-net-pci,netdev=nic,mac={mac},romfile=,{OFFLOADS}");
    let command = [
        &["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"][..],
        &["-display", "none", "-machine", "pc", "-cpu", "max", "-smp", "1", "-m", "256"],
        // The same everywhere: not every machine has KVM.
        &["-accel", "tcg", "-kernel", &kernel, "-initrd", &initramfs],
        &["-append", &arguments, "-serial", "file:/dev/stdout"],
        &["-device", "virtio-serial-pci", "-chardev", &chardev],
        &["-device", "virtserialport,chardev=agent,name=agent"],
        &["-netdev", &tap, "-device", &nic],
    ];
    host.spawn(&command.concat())
}

fn accept(listener: &UnixListener, qemu: &mut Running) -> Result<UnixStream> {
    let accepted = wait_until("QEMU has started", START, || match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if qemu.is_running() => Err(error.to_string()),
        // There is nothing to wait for any more.
        Err(_) => Ok(None),
    });
    let stream = accepted.map_err(|error| with_output(&error, qemu))?;
    let Some(stream) = stream else {
        return Err(Error::unexpected("QEMU", qemu.stderr()));
    };
    stream.set_nonblocking(false).during(|| "talk to a guest".to_owned())?;
    Ok(stream)
}

fn with_output(error: &Error, qemu: &Running) -> Error {
    Error::unexpected(error.to_string(), qemu.stdout() + &qemu.stderr())
}
