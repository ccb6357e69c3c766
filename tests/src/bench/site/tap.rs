//! A guest on a tap, as a hypervisor sees it: frames are written to a file and read from it.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use vnet_common::generator::{FRAME_BYTES, Stream};

use super::threads::{FORWARDS, GENERATES, bind};
use crate::lab::{Node, open_tap};

/// Bytes of zero before each frame: no offload.
const VIRTIO_HEADER: usize = 10;
/// Frames between two looks at the time.
const AT_ONCE: u32 = 1 << 10;

/// The file of a tap, and the thread that drops what it reads there.
pub(super) struct TapGuest {
    file: Arc<File>,
    taken: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    sent: u32,
}

impl TapGuest {
    /// Makes a tap.
    pub fn new(host: &Node, name: &str) -> Result<Self> {
        let file = Arc::new(open_tap(host, name, false)?);
        let (taken, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let of_reader = (Arc::clone(&file), Arc::clone(&taken), Arc::clone(&ends));
        let reader = thread::Builder::new().name("bench-tap".to_owned()).spawn(move || {
            let (file, taken, ends) = of_reader;
            // Where it does not succeed, the other CPU has more to do.
            let _ = bind(0, GENERATES);
            read(&file, &taken, &ends);
        })?;
        Ok(Self { file, taken, ends, reader: Some(reader), sent: 0 })
    }

    /// Frames that were read.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Writes frames for a time, on the CPU that forwards: the kernel does so in the same call. The nanoseconds
    /// that the thread has run.
    pub fn send(&mut self, stream: &Stream, length: usize, time: Duration) -> Result<u64> {
        let sent = &mut self.sent;
        let file = &self.file;
        thread::scope(|scope| {
            let writer = scope.spawn(move || -> Result<u64> {
                bind(0, FORWARDS)?;
                let mut packet = [0; VIRTIO_HEADER + FRAME_BYTES];
                packet[VIRTIO_HEADER..].copy_from_slice(&stream.frame);
                let before = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
                let begin = Instant::now();
                while begin.elapsed() < time {
                    for _ in 0..AT_ONCE {
                        *sent = sent.wrapping_add(1);
                        for field in &stream.fields {
                            let value = field.number(*sent);
                            for (offset, value) in
                                [(field.offset, value), (field.complement, !value)]
                            {
                                if offset != 0 {
                                    let at = VIRTIO_HEADER + offset as usize;
                                    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
                                }
                            }
                        }
                        (&**file).write_all(&packet[..VIRTIO_HEADER + length])?;
                    }
                }
                let after = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
                let ran = Duration::from(after).saturating_sub(Duration::from(before));
                Ok(u64::try_from(ran.as_nanos())?)
            });
            writer.join().ok().context("the writer has panicked")?
        })
    }
}

impl Drop for TapGuest {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read(mut file: &File, taken: &AtomicU64, ends: &AtomicBool) {
    const PATIENCE_MS: u16 = 20;
    let mut frame = [0; 2048];
    while !ends.load(Ordering::Relaxed) {
        match file.read(&mut frame) {
            Ok(_) => {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
                // Woken or not, it looks again.
                let _ = poll(&mut ready, PollTimeout::from(PATIENCE_MS));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
