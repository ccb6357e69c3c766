//! The ends of the wires: the generator in one namespace, and what takes the frames in the other.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, DevMap, PerCpuArray},
    programs::{
        SchedClassifier, TestRun as _, Xdp, XdpMode,
        tc::{self, TcAttachType},
    },
};
use vnet_common::generator::{FRAME_BYTES, Stream};

use super::threads::{GENERATES, bind};
use crate::{bench::objects, lab::Node, programs::Plain};

/// Frames that one call sends: each call waits for RCU's grace periods, in which nothing is sent.
const AT_ONCE: u32 = 1 << 18;
/// Frames that the kernel handles together, as a driver's receive function does.
const BATCH: u32 = 64;

/// A namespace's interface that frames leave by and arrive at.
pub(super) struct Wire {
    node: Node,
    ebpf: Ebpf,
}

impl Wire {
    /// Makes ready to send by `eth0`, and counts what arrives there.
    pub fn at(node: &Node) -> Result<Self> {
        let mut ebpf = objects::load("generator")?;
        let ebpf_inside = &mut ebpf;
        node.enter(|| -> Result<()> {
            let generate: &mut Xdp = program(ebpf_inside, "generate")?;
            generate.load()?;
            let take: &mut Xdp = program(ebpf_inside, "take")?;
            take.load()?;
            take.attach("eth0", XdpMode::Driver)?;
            let ifindex = nix::net::if_::if_nametoindex("eth0")?;
            let map = ebpf_inside.map_mut("WIRE").context("no such map")?;
            DevMap::try_from(map)?.set(0, ifindex, None, 0)?;
            Ok(())
        })??;
        Ok(Self { node: node.clone(), ebpf })
    }

    /// Frames that have arrived.
    pub fn taken(&self) -> Result<u64> {
        let map = self.ebpf.map("TAKEN").context("no such map")?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok(counts.iter().sum())
    }

    /// Sends for a time.
    pub fn send(&mut self, stream: Stream, time: Duration) -> Result<()> {
        let map = self.ebpf.map_mut("STREAM").context("no such map")?;
        Array::<_, Plain<Stream>>::try_from(map)?.set(0, Plain(stream), 0)?;
        let ebpf = &mut self.ebpf;
        self.node.enter(|| -> Result<()> {
            bind(0, GENERATES)?;
            let program: &mut Xdp = program(ebpf, "generate")?;
            let begin = Instant::now();
            while begin.elapsed() < time {
                program.test_run(TestRunOptions {
                    data_in: Some(&[0; FRAME_BYTES]),
                    repeat: AT_ONCE,
                    attrs: aya::TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::default()
                })?;
            }
            Ok(())
        })?
    }
}

/// Programs that stop every frame where the host sees it first.
pub(super) struct Stops {
    _ebpf: Ebpf,
}

impl Stops {
    pub fn at(host: &Node, interfaces: [&str; 2], by_xdp: bool) -> Result<Self> {
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
