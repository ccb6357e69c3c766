//! How often things are done at most that others can make necessary.

use std::time::Duration;

use tokio::time::Instant;

/// Lets something be done a few times at once, and then seldom.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    burst: u32,
    /// When as much may be done at once again as ever.
    full_at: Option<Instant>,
    /// Whether it has to be done when it may.
    is_waiting: bool,
}

impl Pace {
    pub const fn new(every: Duration, burst: u32) -> Self {
        Self { every, burst, full_at: None, is_waiting: false }
    }

    /// Whether it is done now; else it is due later.
    pub fn ask(&mut self, now: Instant) -> bool {
        self.is_waiting = self.next(now) > now;
        if !self.is_waiting {
            self.full_at = Some(self.full_at.map_or(now, |full_at| full_at.max(now)) + self.every);
        }
        !self.is_waiting
    }

    /// When it is to be done that had to wait.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.is_waiting.then(|| self.next(now))
    }

    fn next(&self, now: Instant) -> Instant {
        let most = self.every * self.burst.saturating_sub(1);
        let next = self.full_at.and_then(|full_at| full_at.checked_sub(most));
        next.map_or(now, |next| next.max(now))
    }
}

/// When what bridges know is read: at once, but not again so soon, and ever more seldom while it cannot be followed.
#[derive(Debug)]
pub(super) struct Reading {
    last: Option<Instant>,
    pause: Duration,
    /// Whether the next one does not wait for its period.
    is_wanted: bool,
    /// Whether something has happened that is not known.
    is_lost: bool,
}

impl Reading {
    const PAUSE: Duration = Duration::from_secs(2);
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);
    /// Mends what was missed for whatever reason.
    const PERIOD: Duration = Duration::from_secs(60);

    pub const fn new() -> Self {
        Self { last: None, pause: Self::PAUSE, is_wanted: false, is_lost: true }
    }

    /// There is more to know.
    pub const fn want(&mut self) {
        self.is_wanted = true;
    }

    /// What is known may not be so any more.
    pub fn lose(&mut self, now: Instant) {
        if !self.is_lost {
            let is_again = self.last.is_some_and(|last| now < last + 2 * self.pause);
            let longer = (2 * self.pause).min(Self::LONGEST_PAUSE);
            self.pause = if is_again { longer } else { Self::PAUSE };
        }
        (self.is_wanted, self.is_lost) = (true, true);
    }

    pub const fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub fn due(&self, now: Instant) -> Instant {
        let pause = match (self.is_wanted || self.is_lost, self.is_lost) {
            (_, true) => self.pause,
            (true, false) => Self::PAUSE,
            (false, false) => Self::PERIOD,
        };
        self.last.map_or(now, |last| (last + pause).max(now))
    }

    /// It was tried, or done.
    pub const fn note(&mut self, now: Instant, is_done: bool) {
        self.last = Some(now);
        self.is_wanted = !is_done;
        self.is_lost = !is_done;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn some_are_done_at_once_and_the_rest_as_one_when_it_is_time() {
        let (start, mut pace) = (Instant::now(), Pace::new(SECOND, 3));
        let done = (0..10).filter(|_| pace.ask(start)).count();
        assert_eq!((done, pace.due(start)), (3, Some(start + SECOND)));
        assert!(pace.ask(start + SECOND) && pace.due(start + SECOND).is_none());
        assert!(!pace.ask(start + SECOND));
        // A minute of it: once a second.
        let tenth = SECOND / 10;
        let done = (0..600).filter(|tenths| pace.ask(start + 2 * SECOND + *tenths * tenth)).count();
        assert!((60..=61).contains(&done), "{done}");
        let later = start + 300 * SECOND;
        assert_eq!((0..10).filter(|_| pace.ask(later)).count(), 3);
    }

    #[test]
    fn tables_that_cannot_be_followed_are_read_ever_more_seldom() {
        let (mut now, mut reading) = (Instant::now(), Reading::new());
        assert_eq!((reading.due(now), reading.is_lost()), (now, true));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            reading.note(now, true);
            assert!(!reading.is_lost());
            let last = now;
            now += SECOND / 4;
            reading.lose(now);
            reading.lose(now);
            pauses.push((reading.due(now) - last).as_secs());
            now = reading.due(now);
        }
        assert_eq!(pauses, [4, 8, 16, 32, 60, 60, 60, 60]);
        reading.note(now, true);
        assert_eq!(reading.due(now), now + 60 * SECOND);
        // After a calm it is read at once.
        now += 300 * SECOND;
        reading.note(now - 50 * SECOND, true);
        reading.pause = Reading::PAUSE;
        reading.lose(now);
        assert_eq!(reading.due(now), now);
    }

    #[test]
    fn more_to_know_is_read_soon_but_not_again_and_again() {
        let (now, mut reading) = (Instant::now(), Reading::new());
        reading.note(now, true);
        reading.want();
        assert_eq!((reading.due(now), reading.is_lost()), (now + 2 * SECOND, false));
        reading.note(now, false);
        assert!(reading.is_lost());
    }
}
