//! Expiry: the sweep program over the whole session table, in slices.

use aya::{
    maps::Array,
    programs::{TestRun as _, TestRunOptions},
};
use vnet_common::{flow::SessionCursor, limits, names};

use super::{Datapath, DatapathError};

/// Runs of the program in one system call: a slice of some thousand slots, well under a
/// millisecond.
const RUNS_PER_CALL: u32 = 256;
/// A test run wants a packet, if only an empty one.
const EMPTY_FRAME: [u8; 14] = [0; 14];

impl Datapath {
    /// Looks at every used slot once. Returns how many flows have ended since load.
    pub fn sweep(&mut self) -> Result<u64, DatapathError> {
        let cursor = self.cursor()?;
        let used = cursor.fresh.min(u64::from(self.config.session_limit)) as u32;
        let mut runs = used.div_ceil(limits::SWEEP_SLICE);
        let program = self.classifier(names::program::SWEEP)?;
        while runs > 0 {
            let repeat = runs.min(RUNS_PER_CALL);
            let options =
                TestRunOptions { data_in: Some(&EMPTY_FRAME), repeat, ..TestRunOptions::default() };
            program
                .test_run(options)
                .map_err(|error| DatapathError::program(names::program::SWEEP, &error))?;
            runs -= repeat;
        }
        Ok(self.cursor()?.ended)
    }

    fn cursor(&mut self) -> Result<SessionCursor, DatapathError> {
        let map: Array<_, SessionCursor> = self.map(names::map::SESSION_CURSOR)?;
        let failed = |source| DatapathError::Map { map: names::map::SESSION_CURSOR, source };
        map.get(&0, 0).map_err(failed)
    }
}
