//! A host with guarded guests, and raw frames from them.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::{libc, net::if_::if_nametoindex};
use vnet_common::reason::DropReason;
use vnet_tests::lab::{Guest, Lab, Namespace, Node, wait_until};
use vnet_tests::vnet::Vnet;

pub const DEADLINE: Duration = Duration::from_secs(10);

/// How the network of [`Guarded`] is made.
#[derive(Clone, Default)]
pub struct Settings<'a> {
    /// What stands in `<vnet:options>`.
    pub options: &'a str,
    /// What stands in the `<dhcp>` of the IPv4 subnet.
    pub dhcp: &'a str,
    /// What stands in the `<dhcp>` of the IPv6 subnet; without it guests choose their addresses there.
    pub dhcp_ipv6: &'a str,
    /// What stands in `<network>` besides.
    pub rest: &'a str,
}

/// The definition of a NAT network 192.168.122.0/24 and `fd00:122::/64` on `virbr0`.
pub fn definition(settings: &Settings<'_>) -> String {
    let Settings { options, dhcp, dhcp_ipv6, rest } = settings;
    format!(
        "<network>\n  <name>default</name>\n  <metadata>\n    \
         <vnet:options xmlns:vnet='urn:vnet:options:1'>{options}</vnet:options>\n  </metadata>\n  \
         <forward mode='nat'/>\n  <bridge name='virbr0'/>\n  {rest}\n  \
         <ip address='192.168.122.1' prefix='24'><dhcp>{dhcp}</dhcp></ip>\n  \
         <ip family='ipv6' address='fd00:122::1' prefix='64'><dhcp>{dhcp_ipv6}</dhcp></ip>\n\
         </network>\n"
    )
}

/// Static addresses for the first three guests of a lab, whose MAC addresses count from 1.
pub fn hosts() -> String {
    let host = |n| format!("<host mac='{}' ip='192.168.122.1{n}'/>", text(mac(n)));
    (1..=3).map(host).collect()
}

/// MAC address of the n-th guest that was plugged in.
pub fn mac(serial: u8) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, serial]
}

pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A host, a bridge, and what is plugged into it, with vnet running.
pub struct Guarded {
    // Before the lab, whose end kills every process in it.
    pub vnet: Vnet,
    pub stage: Stage,
}

/// A host, a bridge, and what is plugged into it.
pub struct Stage {
    pub host: Node,
    pub outside: Node,
    pub guests: Vec<Node>,
    pub lab: Lab,
    pub leases: Directory,
}

impl Deref for Guarded {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Stage {
    /// The n-th of these guests has the MAC address of [`mac`].
    pub fn new(guests: &[Guest]) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        host.bridge("virbr0", &["192.168.122.1/24", "fd00:122::1/64"])?;
        let plug = |guest: &Guest| lab.guest(&host, "virbr0", guest);
        let guests = guests.iter().map(plug).collect::<Result<Vec<_>, _>>()?;
        let outside = lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        let leases = Directory::new()?;
        Ok(Self { host, outside, guests, lab, leases })
    }

    /// Starts vnet with further arguments.
    pub fn start(self, settings: &Settings<'_>, arguments: &[&str]) -> anyhow::Result<Guarded> {
        let arguments = [&["--leases", self.leases.text()], arguments].concat();
        let vnet = Vnet::start_with(&self.host, &[definition(settings)], &arguments)?;
        Ok(Guarded { vnet, stage: self })
    }

    pub fn port(&self, guest: &Node) -> String {
        self.host.port_of(guest.name()).unwrap()
    }
}

impl Guarded {
    /// With these guests plugged in before vnet starts.
    pub fn new(settings: &Settings<'_>, guests: &[Guest]) -> anyhow::Result<Self> {
        Stage::new(guests)?.start(settings, &[])
    }

    /// Waits until so many packets were dropped for a reason.
    pub fn wait_for_drops(&self, reason: DropReason, count: u64) -> anyhow::Result<()> {
        let what = format!("{count} packets were dropped: {}", reason.id());
        wait_until(&what, DEADLINE, || match self.vnet.drops(reason) {
            Ok(dropped) if dropped >= count => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(())
    }

    /// The programs at an interface, as `vnet status` lists them.
    pub fn programs_at(&self, interface: &str) -> anyhow::Result<Vec<String>> {
        let status = self.vnet.status()?;
        let hooks = status["hooks"].as_array().cloned().unwrap_or_default();
        let here = hooks.iter().filter(|hook| hook["interface"] == interface);
        Ok(here.map(|hook| hook["program"].as_str().unwrap_or_default().to_owned()).collect())
    }

    pub fn wait_for_guard(&self, port: &str) -> anyhow::Result<()> {
        wait_until(&format!("{port} is guarded"), DEADLINE, || match self.programs_at(port) {
            Ok(programs) if programs == ["port_guard"] => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(())
    }

    pub fn finish(self) -> anyhow::Result<()> {
        assert_eq!(self.host.nft_ruleset()?, "");
        self.vnet.stop()?;
        Ok(())
    }
}

/// A directory of its own for lease files.
pub struct Directory(PathBuf);

impl Directory {
    fn new() -> io::Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("vnet-test-leases-{}-{serial}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sends a whole frame out of an interface, whatever its addresses.
pub fn send_frame(from: &Namespace, interface: &str, frame: &[u8]) -> anyhow::Result<()> {
    let sent = from.enter(|| -> io::Result<()> {
        let index = if_nametoindex(interface)?;
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: the frame and the address outlive the call and have the stated lengths.
        let length = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if usize::try_from(length) == Ok(frame.len()) {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    })?;
    Ok(sent?)
}

/// A frame to everybody on the link.
pub fn broadcast(source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [[0xff; 6].as_slice(), &source, &ethertype.to_be_bytes(), payload].concat()
}
