//! The ends of the wires: the generator in one namespace, and what takes the frames in the other.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, DevMap, PerCpuArray},
    programs::{
        SchedClassifier, TestRun as _, Xdp, XdpMode,
        tc::{self, TcAttachType},
    },
};
use vnet_common::{
    family::Family,
    generator::{FRAME_BYTES, Stream},
};

use super::{
    stream::frame_bytes,
    threads::{GENERATES, bind, run_first},
};
use crate::{bench::objects, lab::Node, programs::Plain};

/// How long is sent, and how fast.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) enum Load {
    /// For a time, as fast as it goes.
    For(Duration),
    /// So many frames, a pause after each [`BATCH`].
    Paced {
        /// How many.
        frames: u32,
        /// From the begin of a batch to that of the next.
        interval: Duration,
    },
}

impl Load {
    /// So many frames at so many in a second.
    pub fn paced(frames: u32, per_second: u32) -> Self {
        Self::Paced { frames, interval: Duration::from_secs(1) * BATCH / per_second }
    }

    /// As fast, for another time; a few thousand frames if it has a pace.
    pub fn for_a_while(self, time: Duration) -> Self {
        const FRAMES: u32 = 1 << 13;
        match self {
            Self::For(_) => Self::For(time),
            Self::Paced { interval, .. } => Self::Paced { frames: FRAMES, interval },
        }
    }
}

/// Frames that one call sends.
const AT_ONCE: u32 = 1 << 16;
/// Frames that the kernel handles together, as a driver's receive function does.
const BATCH: u32 = 64;

/// A namespace's interface that frames leave by and arrive at.
pub(super) struct Wire {
    node: Node,
    frame_bytes: usize,
    ebpf: Ebpf,
}

impl Wire {
    /// Makes ready to send by `eth0`, and counts and drops what arrives there.
    pub fn at(node: &Node, family: Family) -> Result<Self> {
        Self::new(node, family, true)
    }

    /// Makes ready to send by `eth0`.
    pub fn sender(node: &Node, family: Family) -> Result<Self> {
        Self::new(node, family, false)
    }

    fn new(node: &Node, family: Family, takes: bool) -> Result<Self> {
        let mut ebpf = objects::load("generator")?;
        let ebpf_inside = &mut ebpf;
        node.enter(|| -> Result<()> {
            let generate: &mut Xdp = program(ebpf_inside, "generate")?;
            generate.load()?;
            // A run of a program that is attached nowhere changes the kernel's dispatcher, and waits for grace periods.
            generate.attach("lo", XdpMode::Skb)?;
            if takes {
                let take: &mut Xdp = program(ebpf_inside, "take")?;
                take.load()?;
                take.attach("eth0", XdpMode::Driver)?;
            }
            let ifindex = nix::net::if_::if_nametoindex("eth0")?;
            let map = ebpf_inside.map_mut("WIRE").context("no such map")?;
            DevMap::try_from(map)?.set(0, ifindex, None, 0)?;
            Ok(())
        })??;
        Ok(Self { node: node.clone(), frame_bytes: frame_bytes(family), ebpf })
    }

    /// Frames that have arrived.
    pub fn taken(&self) -> Result<u64> {
        let map = self.ebpf.map("TAKEN").context("no such map")?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok(counts.iter().sum())
    }

    /// Sends.
    pub fn send(&mut self, stream: &Stream, load: Load) -> Result<()> {
        let map = self.ebpf.map_mut("STREAM").context("no such map")?;
        Array::<_, Plain<Stream>>::try_from(map)?.set(0, Plain(*stream), 0)?;
        let length = self.frame_bytes;
        let ebpf = &mut self.ebpf;
        self.node.enter(|| -> Result<()> {
            bind(0, GENERATES)?;
            let program: &mut Xdp = program(ebpf, "generate")?;
            let begin = Instant::now();
            match load {
                Load::For(time) => {
                    while begin.elapsed() < time {
                        send(program, AT_ONCE, length)?;
                    }
                }
                Load::Paced { frames, interval } => {
                    wake_in_time()?;
                    for batch in 0..frames.div_ceil(BATCH) {
                        send(program, BATCH, length)?;
                        thread::sleep((interval * (batch + 1)).saturating_sub(begin.elapsed()));
                    }
                }
            }
            Ok(())
        })?
    }
}

fn send(program: &Xdp, frames: u32, length: usize) -> Result<()> {
    program.test_run(TestRunOptions {
        data_in: Some(&[0; FRAME_BYTES][..length]),
        repeat: frames,
        attrs: aya::TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    })?;
    Ok(())
}

/// Lets a thread that sleeps most of the time run when it is to, whoever else wants the CPU.
fn wake_in_time() -> Result<()> {
    const PRIORITY: i32 = 5;
    run_first(PRIORITY)?;
    Ok(nix::sys::prctl::set_timerslack(1)?)
}

/// Programs that stop every frame where the host sees it first.
pub(super) struct Stops {
    _ebpf: Ebpf,
}

impl Stops {
    pub fn at(host: &Node, interfaces: &[&str], by_xdp: bool) -> Result<Self> {
        let mut ebpf = objects::load("generator")?;
        let inside = &mut ebpf;
        host.enter(|| -> Result<()> {
            if by_xdp {
                let stop: &mut Xdp = program(inside, "stop_xdp")?;
                stop.load()?;
                for interface in interfaces {
                    stop.attach(interface, XdpMode::Driver)?;
                }
            } else {
                let stop: &mut SchedClassifier = program(inside, "stop")?;
                stop.load()?;
                for interface in interfaces {
                    // Only kernels without tcx need it.
                    let _ = tc::qdisc_add_clsact(interface);
                    stop.attach(interface, TcAttachType::Ingress)?;
                }
            }
            Ok(())
        })??;
        Ok(Self { _ebpf: ebpf })
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    Ok(ebpf.program_mut(name).context("no such program")?.try_into()?)
}
