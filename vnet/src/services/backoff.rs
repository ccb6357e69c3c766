//! When to start again what has ended.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);
/// Who has lived this long starts with a clean slate.
const STEADY: Duration = Duration::from_secs(60);

/// Pauses between tries: none before the first, then 1 s, and twice as long each time, up to a minute.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    due: Option<Instant>,
}

impl Backoff {
    /// Notes that a service has ended that began at `started`, or at once. Returns the pause.
    pub(super) fn failed(&mut self, started: Option<Instant>, now: Instant) -> Duration {
        if started.is_some_and(|started| now.duration_since(started) >= STEADY) {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 if started.is_some() => Duration::ZERO,
            failures => FIRST.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LAST),
        };
        self.failures += 1;
        self.due = Some(now + pause);
        pause
    }

    /// Notes that there is nothing to be tried again.
    pub(super) fn settle(&mut self) {
        self.due = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_steady_one() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let mut seconds = || backoff.failed(Some(now), now).as_secs();
        let pauses: Vec<u64> = (0..9).map(|_| seconds()).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.failed(Some(now), now + STEADY), Duration::ZERO);
        assert_eq!(backoff.due(), Some(now + STEADY));
        // What does not even start is not tried again at once.
        let mut backoff = Backoff::default();
        let mut seconds = || backoff.failed(None, now).as_secs();
        assert_eq!([seconds(), seconds(), seconds()], [1, 1, 2]);
    }
}
