//! A guest on a tap without a virtual machine: two taps, one the bridge's port and one the guest's
//! NIC, and a thread that carries frames between them with their virtio headers unchanged. So
//! partial checksums and 64 KiB segments cross as they do between QEMU or vhost and a guest.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use super::background::{Background, Stop, Wake};
use super::error::{Result, While};
use super::namespace::Namespace;

/// `struct virtio_net_hdr`, `include/uapi/linux/virtio_net.h`.
const VIRTIO_HEADER: u8 = 10;
/// The largest segment the stack makes (`GSO_LEGACY_MAX_SIZE`), Ethernet with a VLAN tag, header.
const LARGEST_FRAME: usize = 65_536 + 18 + VIRTIO_HEADER as usize;
/// How many frames one direction may send before the other has its turn.
const BURST: usize = 64;

const CHECKSUM_AND_TCP: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP_SEGMENTATION: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

mod ioctl {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(set_offload, libc::TUNSETOFFLOAD);
    nix::ioctl_write_int_bad!(set_persistent, libc::TUNSETPERSIST);
    nix::ioctl_write_ptr_bad!(set_header_size, libc::TUNSETVNETHDRSZ, libc::c_int);
}

/// A pair of taps and the thread between them. Both vanish when this value is dropped.
#[derive(Debug)]
pub(crate) struct TapPair {
    // Dropping it joins the thread, which owns both descriptors.
    _pump: Background,
}

impl TapPair {
    /// Makes tap `port` in `host` and tap `nic` in `guest`, both down.
    pub(crate) fn new(
        host: &Namespace,
        port: &str,
        guest: &Namespace,
        nic: &str,
        offloads: bool,
    ) -> Result<Self> {
        let port_side = open_tap(host, port, offloads)?;
        let guest_side = open_tap(guest, nic, offloads)?;
        let pump = Background::start(&format!("tap-{port}"), move |stop| {
            pump(&stop, &port_side, &guest_side);
        })?;
        Ok(Self { _pump: pump })
    }
}

/// Makes taps that stay without a program at their other end, as those of guests that are paused.
pub(crate) fn make_idle(host: &Namespace, names: &[String]) -> Result<()> {
    host.enter(|| {
        for name in names {
            let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
            let made = tap.and_then(|tap| {
                let request = interface_request(name)?;
                // SAFETY: the descriptor is open; the kernel reads an `ifreq`, as given, and a number.
                unsafe {
                    ioctl::set_interface(tap.as_raw_fd(), &raw const request)?;
                    ioctl::set_persistent(tap.as_raw_fd(), 1)?;
                }
                Ok(())
            });
            made.during(|| format!("make tap {name} in {}", host.name()))?;
        }
        Ok(())
    })?
}

/// Makes a tap whose other end is the file, with virtio headers of ten bytes before the frames; it does not block.
pub(crate) fn open_tap(namespace: &Namespace, name: &str, offloads: bool) -> Result<File> {
    namespace.enter(|| {
        let tap = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .during(|| "open /dev/net/tun".to_owned())?;
        configure(&tap, name, offloads)
            .during(|| format!("make tap {name} in {}", namespace.name()))?;
        Ok(tap)
    })?
}

fn configure(tap: &File, name: &str, offloads: bool) -> io::Result<()> {
    let fd = tap.as_raw_fd();
    let request = interface_request(name)?;
    let header_size = libc::c_int::from(VIRTIO_HEADER);
    // SAFETY: the descriptor is open; the kernel reads an `ifreq` and an `int`, as given.
    unsafe {
        ioctl::set_interface(fd, &raw const request)?;
        ioctl::set_header_size(fd, &raw const header_size)?;
    }
    let offload = |features: libc::c_uint| {
        // SAFETY: the descriptor is open; the argument is a plain number.
        unsafe { ioctl::set_offload(fd, features.cast_signed()) }
    };
    if !offloads {
        offload(0)?;
    } else if offload(CHECKSUM_AND_TCP | UDP_SEGMENTATION).is_err() {
        // Kernels before 6.2 do not know UDP segmentation.
        offload(CHECKSUM_AND_TCP)?;
    }
    Ok(())
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.len() >= ifr_name.len() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "interface name too long"));
    }
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short };
    Ok(libc::ifreq { ifr_name, ifr_ifru })
}

fn pump(stop: &Stop, port: &File, guest: &File) {
    let mut frame = vec![0; LARGEST_FRAME];
    let ends: [BorrowedFd<'_>; 2] = [port.as_fd(), guest.as_fd()];
    while let Ok(Wake::Readable([from_port, from_guest])) = stop.wait(&ends) {
        let port_works = !from_port || carry(port, guest, &mut frame).is_ok();
        let guest_works = !from_guest || carry(guest, port, &mut frame).is_ok();
        if !(port_works && guest_works) {
            // The tap is gone with its namespace or was deleted by the test.
            break;
        }
    }
}

/// Carries what is there, at most [`BURST`] frames. Fails only when a tap cannot be read any more.
fn carry(mut from: &File, mut to: &File, frame: &mut [u8]) -> io::Result<()> {
    for _ in 0..BURST {
        match from.read(frame) {
            // A frame for an interface that is down is lost, as on a wire.
            Ok(length) => drop(to.write(&frame[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
