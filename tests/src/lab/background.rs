//! Threads that work until they are told to stop, and waiting with a deadline.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::{Error, Result, While};

/// A thread that ends, and is joined, when this value is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts `work`, which has to return soon after [`Stop`] says so.
    pub(crate) fn start(name: &str, work: impl FnOnce(Stop) + Send + 'static) -> Result<Self> {
        let (reader, writer) = io::pipe().during(|| format!("pipe for thread {name}"))?;
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(Stop { pipe: reader }))
            .during(|| format!("start thread {name}"))?;
        Ok(Self { stop: Some(writer), thread: Some(thread) })
    }

    /// Tells the thread to stop and waits until it has.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already; the lab is torn down regardless.
            let _ = thread.join();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread's end of the request to stop.
#[derive(Debug)]
pub(crate) struct Stop {
    pipe: io::PipeReader,
}

/// Why [`Stop::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// At least one descriptor can be read; the flags are those of the first two.
    Readable([bool; 2]),
    /// The thread has to end.
    Stopped,
}

impl Stop {
    /// Whether the thread has to end.
    pub(crate) fn is_requested(&self) -> bool {
        let mut polled = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(0))
    }

    /// Waits for a time; `true` if the thread has to end before it is over.
    pub(crate) fn comes_within(&self, time: Duration) -> bool {
        let mut polled = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        !matches!(poll(&mut polled, time), Ok(0))
    }

    /// Blocks until one of the descriptors can be read, or the thread has to end.
    pub(crate) fn wait(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<Wake> {
        let mut polled = vec![PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        polled.extend(descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
        loop {
            match poll(&mut polled, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let ready = |index: usize| polled.get(index).and_then(PollFd::any).unwrap_or(false);
        Ok(if ready(0) { Wake::Stopped } else { Wake::Readable([ready(1), ready(2)]) })
    }
}

/// The time that may really pass: `VNET_TEST_PATIENCE` multiplies every deadline for what has to
/// happen, for machines that are slow as a whole, as emulated ones are.
pub(crate) fn patient(deadline: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| {
        let set = std::env::var("VNET_TEST_PATIENCE").ok();
        set.and_then(|value| value.parse().ok()).unwrap_or(1)
    });
    deadline.saturating_mul(*factor)
}

/// Calls `probe` until it returns something, at most for `deadline`.
///
/// `probe` returns `Err` with a description of what it saw as long as the condition is not met.
///
/// # Errors
/// [`Error::Deadline`] with `what` and the last description.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let deadline = patient(deadline);
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= deadline => {
                return Err(Error::Deadline { what: what.to_owned(), deadline, seen });
            }
            Err(_) => thread::sleep(patient(Duration::from_millis(2))),
        }
    }
}
