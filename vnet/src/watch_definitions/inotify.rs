//! inotify as a source of events for tokio.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{self, AddWatchFlags, InitFlags, WatchDescriptor},
};
use tokio::io::unix::AsyncFd;

/// Writers that are done, renames, and the directory's own end.
const WANTED: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

#[derive(Debug)]
pub(super) struct Inotify(AsyncFd<Descriptor>);

/// nix's type has only the safe of the two traits that tokio asks for.
#[derive(Debug)]
struct Descriptor(inotify::Inotify);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Something that has happened in a directory.
#[derive(Debug)]
pub(super) struct Event {
    pub watch: WatchDescriptor,
    pub mask: AddWatchFlags,
    /// In the directory; none if it is about the directory itself.
    pub name: Option<OsString>,
}

impl Inotify {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the descriptor is owned by the value and is the same as long as that lives.
        Ok(Self(unsafe { AsyncFd::register(Descriptor(inotify)) }?))
    }

    /// Watches a directory. `None` if there is none.
    pub(super) fn add(&self, directory: &Path) -> io::Result<Option<WatchDescriptor>> {
        match self.0.get_ref().0.add_watch(directory, WANTED) {
            Ok(watch) => Ok(Some(watch)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn remove(&self, watch: WatchDescriptor) {
        // It may have gone with its directory.
        let _ = self.0.get_ref().0.rm_watch(watch);
    }

    /// Waits for events. May be cancelled.
    pub(super) async fn read(&self) -> io::Result<Vec<Event>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let event = |event: inotify::InotifyEvent| Event {
                        watch: event.wd,
                        mask: event.mask,
                        name: event.name,
                    };
                    return Ok(events.into_iter().map(event).collect());
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
