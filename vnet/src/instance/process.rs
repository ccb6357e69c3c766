//! A process, told from others that have had its number before or get it later.

use std::{fmt, fs, num::ParseIntError, process, str::FromStr};

use serde::{Deserialize, Serialize};

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    #[serde(rename = "process")]
    pub number: u32,
    /// When it started, in clock ticks since the machine did; 0 where that is not known.
    #[serde(default)]
    pub started: u64,
}

impl ProcessId {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self { number: process::id(), started: start_time(&stat).unwrap_or(0) }
    }
}

/// The 22nd field (`proc_pid_stat(5)`); the second, in parentheses, may have any character.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

impl fmt::Display for ProcessId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.number, self.started)
    }
}

impl FromStr for ProcessId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (number, started) = text.split_once('@').unwrap_or((text, "0"));
        Ok(Self { number: number.parse()?, started: started.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_is_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 5151 2 3";
        assert_eq!(start_time(stat), Some(5151));
        assert_eq!(start_time("7 (a"), None);
        let own = ProcessId::current();
        assert!(own.started > 0, "{own}");
        assert_eq!(own.to_string().parse(), Ok(own));
    }
}
