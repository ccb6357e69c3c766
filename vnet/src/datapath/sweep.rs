//! Expiry: the sweep program over the whole session table, in slices.

use aya::{
    maps::Array,
    programs::{ProgramError, TestRun as _, TestRunOptions},
};
use vnet_common::{flow::SessionCursor, limits, names};

use super::{Datapath, DatapathError};

/// Runs of the program in one system call: a slice of some thousand slots, well under a
/// millisecond.
const RUNS_PER_SLICE: u32 = 256;
/// A test run wants a packet, if only an empty one.
const EMPTY_FRAME: [u8; 14] = [0; 14];

/// What is left of one look at every used slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sweep {
    runs: u32,
    /// Slots that were used when it began.
    used: u32,
}

impl Sweep {
    /// Whether every slot has been looked at.
    #[must_use]
    pub fn is_done(self) -> bool {
        self.runs == 0
    }
}

impl Datapath {
    /// A look at every slot that is used now.
    pub fn begin_sweep(&mut self) -> Result<Sweep, DatapathError> {
        let used = self.used_slots()?;
        Ok(Sweep { runs: used.div_ceil(limits::SWEEP_SLICE), used })
    }

    /// Looks at every slot, and forgets the guests whose flows that has ended.
    pub fn sweep(&mut self) -> Result<(), DatapathError> {
        let mut sweep = self.begin_sweep()?;
        while !sweep.is_done() {
            self.sweep_slice(&mut sweep)?;
        }
        self.forget_departures()
    }

    fn used_slots(&mut self) -> Result<u32, DatapathError> {
        let map: Array<_, SessionCursor> = self.map(names::map::SESSION_CURSOR)?;
        let failed = |source| DatapathError::Map { map: names::map::SESSION_CURSOR, source };
        let cursor = map.get(&0, 0).map_err(failed)?;
        Ok(cursor.fresh.min(u64::from(self.config.session_limit)) as u32)
    }

    /// Looks at the next slice of slots.
    pub fn sweep_slice(&mut self, sweep: &mut Sweep) -> Result<(), DatapathError> {
        let repeat = sweep.runs.min(RUNS_PER_SLICE);
        if repeat == 0 {
            return Ok(());
        }
        let options =
            TestRunOptions { data_in: Some(&EMPTY_FRAME), repeat, ..TestRunOptions::default() };
        match self.classifier(names::program::SWEEP)?.test_run(options) {
            // A signal has come in between; the slice is repeated after it.
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(DatapathError::Sweep(error)),
            Ok(_) => sweep.runs -= repeat,
        }
        if sweep.is_done() {
            // The cursor has also passed slots that were not used when it began.
            let used = self.used_slots()?;
            sweep.runs = used.saturating_sub(sweep.used).div_ceil(limits::SWEEP_SLICE);
            sweep.used = used;
        }
        Ok(())
    }
}
