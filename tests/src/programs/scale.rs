//! Filling tables with more flows than packets would in a reasonable time, and measuring programs.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::{TestRunOptions, maps::Map, programs::TestRun as _};
use vnet_common::{
    flow::{FlowKey4, FlowSlot, Session, SessionCursor},
    names::{map, program},
};

use super::load::{self, Plain};
use super::rig::Rig;
use super::run;

impl Rig {
    /// Writes live IPv4 sessions to the slots from `first` on, each with both keys, and says that so many
    /// slots were used.
    pub fn enter_sessions(
        &mut self,
        first: u32,
        sessions: impl ExactSizeIterator<Item = Session>,
    ) -> Result<()> {
        let end = first + sessions.len() as u32;
        let mut keys = Vec::with_capacity(2 * sessions.len());
        let mut slots = load::array_mut::<Session>(self.ebpf_mut(), map::SESSIONS)?;
        for (index, session) in (first..).zip(sessions) {
            let slot = FlowSlot { index, generation: session.generation };
            slots.set(index, Plain(session), 0)?;
            keys.extend([(session.outbound_key(), slot), (session.inbound_key(), slot)]);
        }
        let mut flows = load::hash_mut::<FlowKey4, FlowSlot>(self.ebpf_mut(), map::FLOWS)?;
        for (key, slot) in keys {
            flows.insert(Plain(key), Plain(slot), 0)?;
        }
        let mut cursors = load::array_mut::<SessionCursor>(self.ebpf_mut(), map::SESSION_CURSOR)?;
        let cursor = SessionCursor { fresh: u64::from(end), ..cursors.get(&0, 0)?.0 };
        Ok(cursors.set(0, Plain(cursor), 0)?)
    }

    /// Flows that expiry has ended so far.
    pub fn ended(&self) -> Result<u64> {
        Ok(load::array::<SessionCursor>(self.ebpf(), map::SESSION_CURSOR)?.get(&0, 0)?.0.ended)
    }

    /// Keys in the flow table of IPv4.
    pub fn flow_keys(&self) -> Result<usize> {
        Ok(load::hash::<FlowKey4, FlowSlot>(self.ebpf(), map::FLOWS)?.keys().count())
    }

    /// Memory of a map in bytes, as the kernel counts it (`bpf_map_memory_usage` in
    /// `kernel/bpf/syscall.c`, since Linux 6.4; before it an estimate).
    pub fn memory(&self, name: &str) -> Result<u64> {
        let map = load::found(self.ebpf(), name)?;
        let (Map::Array(data) | Map::HashMap(data) | Map::Queue(data)) = map else {
            bail!("{name} is a map of another kind");
        };
        let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
        let text = std::fs::read_to_string(&path).context(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        Ok(line.context("no memlock in fdinfo")?.trim().parse()?)
    }

    /// As [`Rig::measure`], one packet at a time with ways that stay young: the mean of so many.
    pub fn measure_with_ways(
        &mut self,
        program: &str,
        interface: &str,
        frame: &[u8],
        packets: u32,
    ) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for _ in 0..packets {
            self.rejuvenate_ways()?;
            total += if program::XDP.contains(&program) {
                self.measure_xdp(program, frame)?
            } else {
                self.measure(program, interface, frame, 1)?
            };
        }
        Ok(total / packets)
    }

    /// The mean time of several runs of a program with the same frame, as the kernel measures it.
    pub fn measure(
        &mut self,
        program: &str,
        interface: &str,
        frame: &[u8],
        runs: u32,
    ) -> Result<Duration> {
        let context = run::context_at(self.ifindex(interface)?);
        let result = self.program(program)?.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: runs,
            ..TestRunOptions::default()
        })?;
        Ok(result.duration)
    }
}
