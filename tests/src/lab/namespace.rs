//! A private network namespace that exists only as long as somebody holds it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::error::{Error, Result, While};
use super::process::{DEFAULT_DEADLINE, Output, Running};

/// Settings that every namespace starts with, whatever the machine's own settings are: a new
/// namespace inherits IPv4 settings from the initial one (`Documentation/networking/ip-sysctl.rst`,
/// `devconf_inherit_init_net`). Entries that the kernel does not have are left out.
const BASELINE: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.bridge.bridge-nf-call-iptables", "0"),
    ("net.bridge.bridge-nf-call-ip6tables", "0"),
    ("net.bridge.bridge-nf-call-arptables", "0"),
];

/// Interfaces without an IPv6 address send nothing of their own, and addresses work at once.
const QUIET: &[(&str, &str)] = &[
    ("net.ipv6.conf.default.disable_ipv6", "1"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
];

/// Whether the kernel's IPv6 speaks on its own on interfaces that have no IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ipv6Noise {
    /// No duplicate address detection, no router solicitations, IPv6 only where it has an address.
    #[default]
    Off,
    /// The kernel's defaults.
    On,
}

/// A network namespace with a mount namespace of its own, in which `/sys` shows its interfaces and
/// `/sys/fs/bpf` is not mounted.
///
/// It has no name in the file system: the kernel destroys it when the last clone of this value is
/// dropped and the last process in it has ended, so also when the test is killed.
#[derive(Debug, Clone)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    net: OwnedFd,
    mount: OwnedFd,
}

impl Namespace {
    /// A new namespace with `lo` up; `name` only serves messages.
    pub fn new(name: &str, ipv6_noise: Ipv6Noise) -> Result<Self> {
        let (net, mount) = on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .during(|| format!("unshare network and mount namespace for {name}"))?;
            mount_private_sysfs().during(|| format!("mount sysfs for {name}"))?;
            let open = |kind: &str| {
                let path = format!("/proc/thread-self/ns/{kind}");
                File::open(&path).map(OwnedFd::from).during(|| format!("open {path}"))
            };
            Ok((open("net")?, open("mnt")?))
        })?;
        let namespace = Self { inner: Arc::new(Inner { name: name.to_owned(), net, mount }) };
        namespace.enter(|| {
            let quiet = if ipv6_noise == Ipv6Noise::Off { QUIET } else { &[] };
            for (name, value) in BASELINE.iter().chain(quiet) {
                match fs::write(sysctl_path(name), value) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result.during(|| format!("set {name}"))?,
                }
            }
            Ok::<_, Error>(())
        })??;
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name given to [`Namespace::new`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Path that `ip link … netns PATH` takes, valid while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.inner.net.as_raw_fd())
    }

    /// The inode of the network namespace, as in `net:[4026531840]`.
    pub fn inode(&self) -> Result<u64> {
        let path = self.path();
        fs::metadata(&path).map(|metadata| metadata.ino()).during(|| format!("stat {path}"))
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets opened there belong to the
    /// namespace for good, and `/proc/sys/net`, `/sys/class/net` and `/sys/fs/bpf` are its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_fresh_thread(|| {
            // A thread shares its root and working directory; only one that does not may join.
            unshare(CloneFlags::CLONE_FS).during(|| "unshare CLONE_FS".to_owned())?;
            join(self.inner.net.as_fd(), self.inner.mount.as_fd())
                .during(|| format!("enter namespace {}", self.name()))?;
            Ok(work())
        })
    }

    /// A command that will run inside the namespace, in the current working directory, with no
    /// standard input, as the leader of its own process group, and that dies with this process.
    ///
    /// A child started by [`Command::spawn`] also dies with the *thread* that started it
    /// (`PR_SET_PDEATHSIG`); [`Namespace::spawn`] and [`Running::start`] do not have that limit.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0);
        let namespace = self.clone();
        let parent = process::id();
        // SAFETY: the closure only makes system calls and does not allocate on success; between
        // fork and exec nothing else runs in the child.
        unsafe {
            command.pre_exec(move || {
                die_with(parent)?;
                namespace.join_in_child()
            });
        }
        command
    }

    /// Runs a program to its end; its standard output.
    ///
    /// # Errors
    /// [`Error::Command`] if its status is not 0, [`Error::Deadline`] after 60 seconds.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.try_run(arguments)?.success()?.stdout)
    }

    /// Runs a program to its end, whatever its status.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Output> {
        self.spawn(arguments)?.wait(DEFAULT_DEADLINE)
    }

    /// Runs a program with `input` as its standard input; its standard output as bytes.
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Result<String> {
        let mut running =
            Running::start_with_input(self, self.command_line(arguments), input.to_vec())?;
        Ok(running.wait(DEFAULT_DEADLINE)?.success()?.stdout)
    }

    /// Starts a program that is killed when the returned value is dropped.
    pub fn spawn(&self, arguments: &[&str]) -> Result<Running> {
        Running::start(self, self.command_line(arguments))
    }

    fn command_line(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments.first().copied().unwrap_or_default());
        command.args(arguments.get(1..).unwrap_or_default());
        command
    }

    /// Runs the lines of `ip` in one process.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let input = lines.join("\n") + "\n";
        self.run_with_input(&["ip", "-batch", "-"], input.as_bytes()).map(drop).map_err(|error| {
            match error {
                Error::Command { command, namespace, status, stdout, stderr } => {
                    Error::Command { command, namespace, status, stdout: stdout + &input, stderr }
                }
                other => other,
            }
        })
    }

    /// Sets a sysctl, named with dots (an interface with a dot in its name: with slashes).
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name);
        self.enter(|| fs::write(&path, value))?.during(|| format!("set {name} in {}", self.name()))
    }

    /// The value of a sysctl, without the line's end.
    pub fn sysctl_value(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name);
        let value = self
            .enter(|| fs::read_to_string(&path))?
            .during(|| format!("read {name} in {}", self.name()))?;
        Ok(value.trim_end().to_owned())
    }

    fn join_in_child(&self) -> io::Result<()> {
        let mut directory = [0_u8; libc::PATH_MAX as usize];
        // SAFETY: the buffer is writable for its whole length.
        let known = unsafe { libc::getcwd(directory.as_mut_ptr().cast(), directory.len()) };
        join(self.inner.net.as_fd(), self.inner.mount.as_fd())?;
        // Joining a mount namespace moves the process to its root directory.
        // SAFETY: getcwd has written a string with its terminator into the buffer.
        if !known.is_null() && unsafe { libc::chdir(directory.as_ptr().cast()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn join(net: BorrowedFd<'_>, mount: BorrowedFd<'_>) -> io::Result<()> {
    setns(mount, CloneFlags::CLONE_NEWNS)?;
    setns(net, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

fn die_with(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // The parent may have died before the request was made.
    if nix::unistd::getppid().as_raw().cast_unsigned() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// `/sys` shows the interfaces of the network namespace it was mounted in (as `ip netns exec` does).
fn mount_private_sysfs() -> nix::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    // What is mounted below, as a BPF file system, would stay in the mount table, hidden.
    match umount2("/sys", MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(error) => return Err(error),
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn sysctl_path(name: &str) -> String {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    format!("/proc/sys/{path}")
}
