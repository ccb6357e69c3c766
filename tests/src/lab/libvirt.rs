//! libvirt's own daemon on a host of the lab.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::mount::{MsFlags, mount};

use super::background::wait_until;
use super::error::{Result, While};
use super::node::Node;
use super::process::Running;
use super::require_root::require_root;

const DEADLINE: Duration = Duration::from_secs(30);
const DAEMON: &str = "libvirtd";
const NETWORK_DRIVER: &str = "libvirt_driver_network.so";
/// Where libvirt keeps what is a host's own; the daemon can be told none of them.
const DIRECTORIES: [&str; 5] =
    ["/etc/libvirt", "/var/lib/libvirt", "/run/libvirt", "/var/cache/libvirt", "/var/log/libvirt"];
const LIBRARIES: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// True for root where libvirt's daemon with its network driver and what that needs is installed.
/// Otherwise prints why the calling test is skipped, or fails it if `VNET_TEST_REQUIRE` holds the word
/// `libvirt`.
///
/// # Panics
/// As told above.
#[must_use]
pub fn require_libvirt() -> bool {
    if !require_root() {
        return false;
    }
    let programs = [DAEMON, "virsh", "dnsmasq", "iptables"];
    let Some(missing) = programs
        .into_iter()
        .find(|program| find_program(program).is_none())
        .or_else(|| drivers().is_none().then_some(NETWORK_DRIVER))
    else {
        return true;
    };
    let reason = format!(
        "{missing} is not installed: `apt-get install --no-install-recommends libvirt-daemon \
         libvirt-clients dnsmasq-base iptables` (since libvirt 11, libvirt-daemon-driver-network, too)"
    );
    let required = std::env::var("VNET_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|required| required == "libvirt"), "{reason}");
    // Past the test harness, which would keep it to itself.
    let _ = writeln!(io::stderr(), "skipped: {reason}");
    false
}

/// libvirt's daemon with its network driver alone, and files of its own: its directories are empty file
/// systems that only the host of the lab sees. It, and every dnsmasq that it has started, ends when this
/// value is dropped.
#[derive(Debug)]
pub struct Libvirt {
    host: Node,
    daemon: Running,
}

impl Libvirt {
    /// Where it keeps the definitions of networks, on the lab's host.
    pub const DEFINITIONS: &str = "/etc/libvirt/qemu/networks";

    /// Starts the daemon. It serves when this returns.
    pub fn start(host: &Node) -> Result<Self> {
        host.enter(prepare)?.during(|| "prepare libvirt's directories".to_owned())?;
        // In a process namespace of its own, with which go the servers that it starts and leaves; the
        // shell reaps them, for whom the daemon waits when it ends them.
        let script = "libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid & wait $!";
        let daemon = host.spawn(&[
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script,
        ])?;
        let libvirt = Self { host: host.clone(), daemon };
        wait_until("libvirt's daemon answers", DEADLINE, || {
            libvirt.virsh(&["net-list"]).map_err(|error| format!("{error}\n{}", libvirt.log()))
        })?;
        Ok(libvirt)
    }

    /// `virsh` with these arguments; what it prints.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        self.host.run(&[&["virsh", "-c", "network:///system"], arguments].concat())
    }

    /// Defines a network and starts it.
    pub fn run_network(&self, name: &str, definition: &str) -> Result<()> {
        let file = format!("/run/libvirt/{name}.xml");
        self.host.enter(|| fs::write(&file, definition))?.during(|| format!("write {file}"))?;
        self.virsh(&["net-define", "--validate", &file])?;
        self.virsh(&["net-start", name]).map(drop)
    }

    /// What the daemon has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.stderr()
    }
}

/// In the mount namespace of the host.
fn prepare() -> io::Result<()> {
    let drivers = drivers().ok_or(io::ErrorKind::NotFound)?;
    let network = fs::read(drivers.join(NETWORK_DRIVER))?;
    for directory in DIRECTORIES {
        fs::create_dir_all(directory)?;
        mount_empty(Path::new(directory))?;
    }
    // The others want users, a system bus and hardware.
    mount_empty(&drivers)?;
    let driver = drivers.join(NETWORK_DRIVER);
    fs::write(&driver, network)?;
    fs::set_permissions(&driver, fs::Permissions::from_mode(0o644))?;
    let settings = "auth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nunix_sock_group = \"root\"\n\
                    log_outputs = \"2:stderr\"\n";
    fs::write("/etc/libvirt/libvirtd.conf", settings)
}

fn mount_empty(at: &Path) -> io::Result<()> {
    let options = Some("mode=755,size=16m");
    mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), options).map_err(io::Error::from)
}

fn drivers() -> Option<PathBuf> {
    let places = LIBRARIES.iter().map(|place| Path::new(place).join("libvirt/connection-driver"));
    places.into_iter().find(|place| place.join(NETWORK_DRIVER).exists())
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|program| program.exists())
}
