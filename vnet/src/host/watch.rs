//! Notice of changes to the host's network, from the kernel's multicast groups.

use std::{future::Future, io, os::fd::AsFd, time::Duration};

use futures::Stream;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::time::{Instant, timeout_at};

use super::netlink::{NetlinkError, messages};

/// A burst is over when nothing has come for this long.
const QUIET: Duration = Duration::from_millis(20);
/// A burst is reported after this long even if it goes on.
const MAX_DELAY: Duration = Duration::from_millis(200);
/// Notifications are at most a few KiB, and of a longer one only the header is read.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// What a [`Watch`] listens to.
#[derive(Debug, Clone, Copy)]
pub struct WatchOptions {
    /// Also the neighbour tables and the bridges' forwarding databases, which are busy on a large
    /// network.
    pub neighbours: bool,
    /// Bytes of notifications that the kernel keeps before it loses some (`SO_RCVBUF`). The
    /// kernel doubles it for its own bookkeeping.
    pub receive_buffer: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { neighbours: false, receive_buffer: 1 << 20 }
    }
}

/// Which of the host's tables may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent facts, not a state")]
pub struct Change {
    /// Interfaces, their flags, masters and settings.
    pub links: bool,
    /// Addresses of either family.
    pub addresses: bool,
    /// Routes of either family, rules and next-hop objects.
    pub routes: bool,
    /// Neighbours and forwarding databases.
    pub neighbours: bool,
    /// The kernel lost notifications (`ENOBUFS`), which is why everything is set.
    pub overrun: bool,
}

impl Change {
    /// What an overrun means.
    const EVERYTHING: Self =
        Self { links: true, addresses: true, routes: true, neighbours: true, overrun: true };

    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn note(&mut self, message_type: u16) {
        // RTM_NEW* and RTM_DEL* of include/uapi/linux/rtnetlink.h; each group of four is a table.
        match message_type {
            16 | 17 => self.links = true,
            20 | 21 => self.addresses = true,
            24 | 25 | 32 | 33 | 104 | 105 => self.routes = true,
            28 | 29 => self.neighbours = true,
            _ => {}
        }
    }
}

/// Listens for changes since it was opened.
///
/// The kernel keeps the notifications until [`Watch::next`] reads them, so nothing happens in the
/// background and nothing is lost while nobody waits, but for an overrun, which is reported.
pub struct Watch {
    socket: TokioSocket,
    buffer: Vec<u8>,
    pending: Option<Burst>,
}

struct Burst {
    change: Change,
    first: Instant,
    last: Instant,
}

/// Starts to listen for changes in the calling thread's network namespace.
///
/// Open it before the first [`snapshot`](super::snapshot()); then every change is either in the
/// snapshot or reported. Must be called inside a tokio runtime.
pub fn watch(options: WatchOptions) -> Result<Watch, NetlinkError> {
    open(options).map_err(|source| NetlinkError::Socket { action: WATCHING, source })
}

const WATCHING: &str = "watch the host's network for changes";

fn open(options: WatchOptions) -> io::Result<Watch> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    set_receive_buffer(&socket, options.receive_buffer)?;
    socket.socket_mut().bind_auto()?;
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ];
    let neighbours = options.neighbours.then_some(MulticastGroup::Neigh);
    for group in groups.into_iter().chain(neighbours) {
        socket.socket_ref().add_membership(group as u32)?;
    }
    // Kernels before 5.3 have no next-hop objects.
    let _ = socket.socket_ref().add_membership(MulticastGroup::Nexthop as u32);
    Ok(Watch { socket, buffer: Vec::with_capacity(RECEIVE_BUFFER), pending: None })
}

/// `SO_RCVBUFFORCE` is not bounded by `net.core.rmem_max` but needs `CAP_NET_ADMIN`.
fn set_receive_buffer(socket: &TokioSocket, bytes: usize) -> io::Result<()> {
    let descriptor = BorrowedSocket(socket);
    setsockopt(&descriptor, sockopt::RcvBufForce, &bytes)
        .or_else(|_| setsockopt(&descriptor, sockopt::RcvBuf, &bytes))?;
    Ok(())
}

struct BorrowedSocket<'a>(&'a TokioSocket);

impl AsFd for BorrowedSocket<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the socket owns the descriptor and is borrowed for as long as the result.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

impl Watch {
    /// Waits for changes and returns them as one when they have paused for 20 ms, or 200 ms after
    /// the first of them.
    ///
    /// Dropping the future loses nothing: the next call goes on where it was.
    pub async fn next(&mut self) -> Result<Change, NetlinkError> {
        loop {
            // A socket that always has something to read must not hold the report back.
            if let Some(burst) = self.pending.take_if(|burst| burst.is_overdue()) {
                return Ok(burst.change);
            }
            let deadline = self.pending.as_ref().map(Burst::deadline);
            match before(deadline, receive(&self.socket, &mut self.buffer)).await {
                Some(change) => self.note(change?),
                None => {
                    if let Some(burst) = self.pending.take() {
                        return Ok(burst.change);
                    }
                }
            }
        }
    }

    /// The changes as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Change, NetlinkError>> {
        futures::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            let change = watch.next().await;
            let rest = change.is_ok().then_some(watch);
            Some((change, rest))
        })
    }

    fn note(&mut self, change: Change) {
        if change.is_empty() {
            return;
        }
        let now = Instant::now();
        let burst =
            self.pending.get_or_insert(Burst { change: Change::default(), first: now, last: now });
        burst.last = now;
        burst.change.links |= change.links;
        burst.change.addresses |= change.addresses;
        burst.change.routes |= change.routes;
        burst.change.neighbours |= change.neighbours;
        burst.change.overrun |= change.overrun;
    }
}

impl Burst {
    fn is_overdue(&self) -> bool {
        self.first + MAX_DELAY <= Instant::now()
    }

    fn deadline(&self) -> Instant {
        (self.last + QUIET).min(self.first + MAX_DELAY)
    }
}

/// Awaits `future` up to the deadline; `None` when it was not ready even then.
async fn before<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

/// Reads one datagram of notifications.
async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> Result<Change, NetlinkError> {
    buffer.clear();
    let sender = match socket.recv_from(buffer).await {
        Ok(sender) => sender,
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
            return Ok(Change::EVERYTHING);
        }
        Err(source) => return Err(NetlinkError::Socket { action: WATCHING, source }),
    };
    let mut change = Change::default();
    // Any process may write to the socket; port 0 is the kernel.
    if sender.port_number() == 0 {
        for message in messages(buffer).flatten() {
            change.note(message.kind);
        }
    }
    Ok(change)
}
