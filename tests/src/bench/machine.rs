//! What figures were taken on.

use std::{fmt, fs};

use serde::Serialize;

/// A machine and its kernel.
#[derive(Debug, Serialize)]
pub struct Machine {
    kernel: String,
    processor: String,
    processors: usize,
    /// Processes that wanted to run in the minute before the first figure, on average: more than a few make
    /// figures worthless.
    load: f64,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim());
        let load = read("/proc/loadavg");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: model.unwrap_or("an unknown processor").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let (kernel, processor) = ("6.18".to_owned(), "a processor".to_owned());
        Self { kernel, processor, processors: 2, load: 0.5 }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, processor, processors, load } = self;
        write!(
            formatter,
            "Linux {kernel}, {processors} CPUs ({processor}), load {load} before the run"
        )
    }
}
