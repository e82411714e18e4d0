//! When a service has had no calls for long enough.

use std::time::Duration;

use tower_mesh_core::Tick;

/// What was counted when it was last looked, and since when that has been the same.
#[derive(Debug)]
pub(crate) struct Idle {
    after: Duration,
    counted: Option<u64>,
    since: Tick,
}

impl Idle {
    pub(crate) fn new(after: Duration, now: Tick) -> Self {
        Self { after, counted: None, since: now }
    }

    /// Looks: `calls` is how many there have been, whatever it counts from; `busy`: some are under way. Whether there were none for long enough.
    pub(crate) fn look(&mut self, calls: u64, busy: bool, now: Tick) -> bool {
        if busy || self.counted != Some(calls) {
            self.counted = Some(calls);
            self.since = now;
        }
        now.since(self.since) >= self.after
    }

    /// It is called again.
    pub(crate) fn restart(&mut self, now: Tick) {
        (self.counted, self.since) = (None, now);
    }

    /// How long until the next look: calls are noticed late by at most a quarter of what is waited for.
    pub(crate) fn interval(&self) -> Duration {
        (self.after / 4).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod tests {
    use super::*;

    #[test]
    fn idle_is_when_nothing_was_counted_and_nothing_was_under_way_for_as_long() {
        let now = Tick::of(std::time::Instant::now());
        let s = Duration::from_secs;
        let mut idle = Idle::new(s(10), now);
        assert!(!idle.look(7, false, now));
        assert!(!idle.look(7, false, now + s(9)));
        assert!(!idle.look(8, false, now + s(10)), "a call");
        assert!(!idle.look(8, true, now + s(19)), "one that still runs");
        assert!(!idle.look(8, false, now + s(28)));
        assert!(idle.look(8, false, now + s(29)));
        assert!(
            !idle.look(3, false, now + s(40)),
            "endpoints that went took their counts with them: not known to be idle"
        );
    }
}
