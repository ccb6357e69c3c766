//! Running one packet through one program.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _};
use aya::{TestRunOptions, programs::ProgramError};
use bytemuck::{Pod, Zeroable};

use super::counters;
use super::outcome::{Outcome, Verdict};
use super::rig::Rig;

/// Where a packet that leaves through an interface came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// The host itself made it.
    Host,
    /// It came in through this interface and was forwarded.
    Interface(&'a str),
}

/// A packet at a hook.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Name of the program.
    pub program: &'static str,
    /// The frame; what a raw-IP program gets starts with the IP header.
    pub frame: &'a [u8],
    /// The interface of the hook.
    pub interface: &'a str,
    /// Where it came from.
    pub origin: Origin<'a>,
    /// Its mark.
    pub mark: u32,
    /// Payload bytes per segment of a segmentation-offload packet; else 0.
    pub gso_size: u32,
}

/// `struct __sk_buff` of `include/uapi/linux/bpf.h`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SkBuff {
    before_mark: [u32; 2],
    mark: u32,
    before_ingress_ifindex: [u32; 6],
    ingress_ifindex: u32,
    ifindex: u32,
    before_gso_segs: [u32; 30],
    gso_segs: u32,
    sk: u64,
    gso_size: u32,
    tstamp_type: u32,
    hwtstamp: u64,
}

const _: () = assert!(size_of::<SkBuff>() == 192 && std::mem::offset_of!(SkBuff, gso_size) == 176);

/// The context of a frame that came in at an interface.
pub(crate) fn context_at(ifindex: u32) -> Vec<u8> {
    let context = SkBuff { ifindex, ingress_ifindex: ifindex, ..SkBuff::zeroed() };
    bytemuck::bytes_of(&context).to_vec()
}

impl Rig {
    /// Runs a packet through a program, and checks the tables afterwards.
    pub fn run(&mut self, arrival: Arrival<'_>) -> Result<Outcome> {
        let before = counters::read(self.ebpf())?;
        // What loads now takes no time later.
        self.program(arrival.program)?;
        self.rejuvenate_ways()?;
        let (action, frame, mark) = self.run_uncounted(arrival)?;
        let after = counters::read(self.ebpf())?;
        self.tables()?.check().with_context(|| format!("after {}", arrival.program))?;
        let counted = counters::moved(&before, &after);
        Ok(Outcome { verdict: Verdict::from_action(action), frame, mark, counted })
    }

    /// Runs a packet through a program: action, frame and mark.
    pub fn run_uncounted(&mut self, arrival: Arrival<'_>) -> Result<(u32, Vec<u8>, u32)> {
        let mut context = SkBuff::zeroed();
        context.mark = arrival.mark;
        context.ifindex = self.ifindex(arrival.interface)?;
        context.ingress_ifindex = match arrival.origin {
            Origin::Host => 0,
            Origin::Interface(name) => self.ifindex(name)?,
        };
        context.gso_size = arrival.gso_size;
        let mut context_out = SkBuff::zeroed();
        let mut frame = vec![0; arrival.frame.len() + 256];
        let result = self.program(arrival.program)?.test_run(TestRunOptions {
            data_in: Some(arrival.frame),
            data_out: Some(&mut frame),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            ctx_out: Some(bytemuck::bytes_of_mut(&mut context_out)),
            ..TestRunOptions::default()
        })?;
        ensure!(result.ctx_size_out as usize == size_of::<SkBuff>(), "a context of another size");
        frame.truncate(result.data_size_out as usize);
        Ok((result.return_value, frame, context_out.mark))
    }

    /// A loaded program; loads it at its first use.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program = self
            .ebpf_mut()
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?;
        let program: &mut SchedClassifier = program.try_into()?;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
            Err(error) => Err(error).with_context(|| format!("the verifier refuses {name}")),
        }
    }
}
