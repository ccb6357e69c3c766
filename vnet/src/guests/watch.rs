//! Notice of changed lease files, from inotify.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout_at},
};

/// dnsmasq empties its file and writes it anew, and it is read when that has rested this long.
const QUIET: Duration = Duration::from_millis(20);

/// Where libvirt keeps the lease files of its networks.
pub const LIBVIRT_DIRECTORY: &str = "/var/lib/libvirt/dnsmasq";

/// A watch over a directory of lease files.
#[derive(Debug)]
pub struct LeaseWatch {
    directory: PathBuf,
    inotify: AsyncFd<Descriptor>,
    is_watching: bool,
    /// When the last change was seen that nobody has been told of.
    untold: Option<Instant>,
}

/// nix's type has only the safe of the two traits that tokio asks for.
#[derive(Debug)]
struct Descriptor(Inotify);

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

impl LeaseWatch {
    /// Watches a directory; one that is not there yet from [`LeaseWatch::try_again`] on. Must be
    /// called inside a tokio runtime.
    pub fn start(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: the descriptor is owned by the value and is the same as long as that lives.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }?;
        let directory = directory.to_owned();
        let mut watch = Self { directory, inotify, is_watching: false, untold: None };
        watch.try_again();
        Ok(watch)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Watches the directory if it has appeared. Returns whether it has.
    pub fn try_again(&mut self) -> bool {
        if self.is_watching {
            return false;
        }
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let added = self.inotify.get_ref().0.add_watch(&self.directory, flags);
        self.is_watching = added.is_ok();
        self.is_watching
    }

    /// Waits until files have changed and rest. May be cancelled, also again and again: nothing is lost.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let more = match self.untold {
                None => Ok(self.wait_and_drain().await),
                Some(last) => timeout_at(last + QUIET, self.wait_and_drain()).await,
            };
            match more {
                Ok(seen) => seen?,
                Err(_) => break,
            }
            self.untold = Some(Instant::now());
        }
        self.untold = None;
        Ok(())
    }

    async fn wait_and_drain(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
                    if events.iter().any(|event| event.mask.intersects(gone)) {
                        self.is_watching = false;
                    }
                    return Ok(());
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn on_runtime(work: impl AsyncFnOnce()) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(work());
    }

    #[test]
    fn written_file_is_noticed_also_in_a_directory_that_comes_later() {
        on_runtime(async || {
            let directory =
                std::env::temp_dir().join(format!("vnet-leases-{}", std::process::id()));
            let mut watch = LeaseWatch::start(&directory).unwrap();
            assert!(!watch.try_again());
            fs::create_dir_all(&directory).unwrap();
            assert!(watch.try_again());
            assert!(!watch.try_again());
            fs::write(directory.join("n.leases"), "0").unwrap();
            timeout(DEADLINE, watch.changed()).await.unwrap().unwrap();
            assert!(timeout(QUIET, watch.changed()).await.is_err());
            fs::remove_dir_all(&directory).unwrap();
            timeout(DEADLINE, watch.changed()).await.unwrap().unwrap();
            assert!(!watch.is_watching);
        });
    }

    #[test]
    fn change_is_told_of_though_others_come_before_it_all_the_time() {
        on_runtime(async || {
            let directory =
                std::env::temp_dir().join(format!("vnet-untold-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            let mut watch = LeaseWatch::start(&directory).unwrap();
            fs::write(directory.join("n.leases"), "0").unwrap();
            let until = Instant::now() + DEADLINE;
            let mut is_told = false;
            while !is_told && Instant::now() < until {
                is_told = timeout(QUIET / 10, watch.changed()).await.is_ok();
            }
            assert!(is_told);
            assert!(timeout(QUIET * 2, watch.changed()).await.is_err());
            fs::remove_dir_all(&directory).unwrap();
        });
    }
}
