//! Captures on an interface, complete and in order, with what the kernel knows of each packet.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::if_nametoindex;

use super::background::{Background, Wake, patient};
use super::error::{Error, Result, While};
use super::namespace::Namespace;
use super::packet::{CapturedPacket, Checksum, Segmentation};

/// `struct virtio_net_hdr` without the `num_buffers` of later versions.
const VIRTIO_HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
/// More than the largest frame, so that nothing is cut by the socket.
const LARGEST_READ: usize = 256 * 1024;
/// Bytes of the socket's queue: enough for a burst while the thread is not scheduled.
const QUEUE: libc::c_int = 64 * 1024 * 1024;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    what: String,
    socket: Arc<OwnedFd>,
    packets: Arc<Packets>,
    thread: Background,
}

#[derive(Debug, Default)]
struct Packets {
    list: Mutex<Vec<CapturedPacket>>,
    grown: Condvar,
}

impl Packets {
    fn lock(&self) -> MutexGuard<'_, Vec<CapturedPacket>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Namespace {
    /// Captures what crosses `interface`, in both directions, whole packets. `filter` is an
    /// expression as tcpdump takes it, or empty. The capture is on when this returns.
    ///
    /// A tag of 802.1Q is not part of the data (see [`CapturedPacket::vlan`]), so `vlan` in a filter
    /// never matches.
    pub fn capture(&self, interface: &str, filter: &str) -> Result<Capture> {
        Capture::start(self, interface, filter, 262_144)
    }

    /// As [`Namespace::capture`], but keeps only the first 128 bytes of each packet: for bulk
    /// transfers.
    pub fn capture_headers(&self, interface: &str, filter: &str) -> Result<Capture> {
        Capture::start(self, interface, filter, 128)
    }
}

impl Capture {
    fn start(ns: &Namespace, interface: &str, filter: &str, keep: u32) -> Result<Self> {
        let what = format!("capture of {filter:?} on {interface} in {}", ns.name());
        let program = compile(ns, filter, keep)?;
        let socket = ns.enter(|| open(interface, &program))?.during(|| what.clone())?;
        let socket = Arc::new(socket);
        let packets = Arc::new(Packets::default());
        let thread = {
            let (socket, packets) = (Arc::clone(&socket), Arc::clone(&packets));
            Background::start("capture", move |stop| {
                let mut buffer = vec![0; LARGEST_READ];
                while let Ok(Wake::Readable(_)) = stop.wait(&[socket.as_fd()]) {
                    drain(&socket, &mut buffer, &packets);
                }
                // A packet is in the queue before the call that sent it returns.
                drain(&socket, &mut buffer, &packets);
            })?
        };
        Ok(Self { what, socket, packets, thread })
    }

    /// Waits until a packet for which `wanted` holds has been captured.
    pub fn wait_for(
        &self,
        wanted: impl Fn(&CapturedPacket) -> bool,
        deadline: Duration,
    ) -> Result<CapturedPacket> {
        let deadline = patient(deadline);
        let start = Instant::now();
        let mut packets = self.packets.lock();
        let mut looked_at = 0;
        loop {
            if let Some(packet) = packets[looked_at..].iter().find(|packet| wanted(packet)) {
                return Ok(packet.clone());
            }
            looked_at = packets.len();
            let left = deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                let what = format!("a wanted packet in the {}", self.what);
                return Err(Error::Deadline { what, deadline, seen: listing(&packets) });
            }
            packets = self
                .packets
                .grown
                .wait_timeout(packets, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Ends the capture: every packet that crossed the interface since it began, in order.
    ///
    /// # Errors
    /// If the kernel had to leave out packets, because then the list would prove nothing.
    pub fn finish(mut self) -> Result<Vec<CapturedPacket>> {
        self.thread.stop();
        let missed = missed(&self.socket).during(|| self.what.clone())?;
        if missed > 0 {
            return Err(Error::unexpected(self.what, format!("{missed} packets were missed")));
        }
        Ok(mem::take(&mut *self.packets.lock()))
    }
}

/// One line for each packet.
#[must_use]
pub fn listing(packets: &[CapturedPacket]) -> String {
    packets.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Writes packets as a pcap file (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>),
/// for tcpdump or Wireshark.
pub fn write_pcap(path: &Path, packets: &[CapturedPacket]) -> io::Result<()> {
    /// Magic of nanosecond resolution; version 2.4; snapshot length; Ethernet.
    const HEADER: [u32; 6] = [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, 1];
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    for word in HEADER {
        file.write_all(&word.to_ne_bytes())?;
    }
    for packet in packets {
        let time = packet.time;
        let words = [
            time.as_secs() as u32,
            time.subsec_nanos(),
            packet.data.len() as u32,
            packet.length as u32,
        ];
        for word in words {
            file.write_all(&word.to_ne_bytes())?;
        }
        file.write_all(&packet.data)?;
    }
    file.flush()
}

/// Lets tcpdump compile the expression; the program's result is the number of bytes to keep.
fn compile(ns: &Namespace, filter: &str, keep: u32) -> Result<Vec<libc::sock_filter>> {
    let keep = keep.to_string();
    let printed = ns.run(&["tcpdump", "-ddd", "-y", "EN10MB", "-s", &keep, filter])?;
    let mut instructions = printed.lines().skip(1).map(|line| {
        let mut numbers = line.split(' ').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some(libc::sock_filter {
            code: next()? as u16,
            jt: next()? as u8,
            jf: next()? as u8,
            k: next()?,
        })
    });
    let program: Option<Vec<_>> = instructions.by_ref().collect();
    program.ok_or_else(|| Error::unexpected("tcpdump -ddd", printed))
}

fn open(interface: &str, program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let index = if_nametoindex(interface)?;
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let filter =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &QUEUE)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1_i32)?;
    // Only now packets arrive: all of them have passed the filter and come from this interface.
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        ..zeroed_address()
    };
    // SAFETY: the address is a whole `sockaddr_ll` and outlives the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a value that outlives the call.
    let result = unsafe {
        libc::setsockopt(fd, level, option, std::ptr::from_ref(value).cast(), size_of::<T>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn missed(socket: &OwnedFd) -> io::Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as u32;
    // SAFETY: the kernel writes at most `length` bytes into the statistics.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(statistics.tp_drops) } else { Err(io::Error::last_os_error()) }
}

fn drain(socket: &OwnedFd, buffer: &mut [u8], packets: &Packets) {
    let mut received = VecDeque::new();
    while let Some(packet) = receive(socket, buffer) {
        received.push_back(packet);
    }
    packets.lock().extend(received);
    packets.grown.notify_all();
}

/// The next packet of the queue, if there is one.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<CapturedPacket> {
    let mut address = zeroed_address();
    let mut control = [0_u64; 32];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` is plain data for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer of the message names a live buffer of the stated length.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).ok()?;
    let (header, data) = buffer.get(..length)?.split_at_checked(VIRTIO_HEADER)?;
    let mut packet = CapturedPacket {
        time: Duration::ZERO,
        data: data.to_vec(),
        length: data.len(),
        outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        checksum: Checksum::Complete,
        segmentation: Segmentation::read(header),
        vlan: None,
    };
    if header[0] & NEEDS_CHECKSUM != 0 {
        packet.checksum = Checksum::Partial;
    }
    read_control(&message, &mut packet);
    Some(packet)
}

fn read_control(message: &libc::msghdr, packet: &mut CapturedPacket) {
    // SAFETY: the kernel has filled the control buffer of this message, which is still alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header in the buffer.
        let header = unsafe { *next };
        // SAFETY: as above; the data follows the header.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                // SAFETY: for this type the kernel puts a `tpacket_auxdata` there.
                let auxiliary: libc::tpacket_auxdata =
                    unsafe { data.cast::<libc::tpacket_auxdata>().read_unaligned() };
                packet.length = auxiliary.tp_len as usize;
                packet.apply_status(auxiliary.tp_status);
                if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    packet.vlan = Some(auxiliary.tp_vlan_tci);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                // SAFETY: for this type the kernel puts a `timespec` there.
                let time = unsafe { data.cast::<libc::timespec>().read_unaligned() };
                packet.time =
                    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned() as u32);
            }
            _ => {}
        }
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
}

fn zeroed_address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}
