//! When the next hedge of a call starts (gRFC A6).

use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::classify::{Outcome, Retry, Verdict};

/// What one call remembers of its hedges.
///
/// They start one `delay` after the other. An attempt that failed is followed at once, or when the server said, and the cadence goes on from there.
#[derive(Debug, Clone, Copy)]
pub struct HedgePolicy {
    left: u32,
    delay: Duration,
    next: Option<Tick>,
}

/// What an attempt that ended means to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It is the answer: good, or one that no other attempt would better.
    Answer,
    /// It failed, and another attempt may do better.
    Failed(Pushback),
}

/// What the server said about another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    None,
    /// After this time.
    After(Duration),
    /// Not at all. What is under way goes on.
    Never,
}

/// Longer waits than this are not obeyed: no other attempt starts.
const MAX_WAIT: Duration = Duration::from_secs(300);

impl Ended {
    /// What `verdict` means.
    pub fn of(verdict: Verdict) -> Self {
        let may_follow = matches!(verdict.outcome, Outcome::Failure(_) | Outcome::Refused | Outcome::Ignored);
        match (verdict.retry, verdict.wait) {
            (Retry::Never, _) => Self::Answer,
            _ if !may_follow => Self::Answer,
            (Retry::Forbidden, _) => Self::Failed(Pushback::Never),
            (_, Some(wait)) if wait > MAX_WAIT => Self::Failed(Pushback::Never),
            (_, Some(wait)) => Self::Failed(Pushback::After(wait)),
            (_, None) => Self::Failed(Pushback::None),
        }
    }
}

impl HedgePolicy {
    /// For a call whose first attempt began at `began` and that may be hedged `hedges` times.
    pub fn new(hedges: u32, delay: Duration, began: Tick) -> Self {
        Self { left: hedges, delay, next: (hedges > 0).then(|| began + delay) }
    }

    /// When the next hedge starts, if nothing else happens; none if there is no other.
    pub const fn next(&self) -> Option<Tick> {
        self.next
    }

    /// Whether there may be another after the next.
    pub const fn more_after_next(&self) -> bool {
        self.left > 1
    }

    /// One started at `now`.
    pub fn started(&mut self, now: Tick) {
        self.left = self.left.saturating_sub(1);
        self.next = (self.left > 0).then(|| now + self.delay);
    }

    /// An attempt failed at `now`, and the server said `pushback`.
    pub fn failed(&mut self, now: Tick, pushback: Pushback) {
        match pushback {
            Pushback::None if self.left > 0 => self.next = Some(now),
            Pushback::After(wait) if self.left > 0 => self.next = Some(now + wait),
            Pushback::None | Pushback::After(_) => {}
            Pushback::Never => self.stop(),
        }
    }

    /// No more of them.
    pub const fn stop(&mut self) {
        self.left = 0;
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::classify::Origin;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; it does not pass")]
    fn start() -> Tick {
        Tick::of(std::time::Instant::now())
    }

    #[test]
    fn a_failure_starts_the_next_at_once_and_the_cadence_goes_on_from_there() {
        let start = start();
        let mut policy = HedgePolicy::new(3, 5 * SEC, start);
        assert_eq!(policy.next(), Some(start + 5 * SEC));
        policy.failed(start + SEC, Pushback::None);
        assert_eq!(policy.next(), Some(start + SEC));
        policy.started(start + SEC);
        assert_eq!(policy.next(), Some(start + 6 * SEC));
        policy.failed(start + 2 * SEC, Pushback::After(10 * SEC));
        assert_eq!(policy.next(), Some(start + 12 * SEC));
        policy.started(start + 12 * SEC);
        assert!(!policy.more_after_next());
        policy.started(start + 17 * SEC);
        assert_eq!(policy.next(), None);
        policy.failed(start + 18 * SEC, Pushback::None);
        assert_eq!(policy.next(), None, "none are left");
    }

    #[test]
    fn a_server_that_wants_no_other_is_asked_no_more() {
        let start = start();
        for wait in [Pushback::Never, Pushback::After(SEC)] {
            let mut policy = HedgePolicy::new(3, SEC, start);
            policy.failed(start, wait);
            assert_eq!(policy.next().is_none(), wait == Pushback::Never);
        }
        let failed = Verdict::failure(Origin::Remote, Retry::IfIdempotent);
        assert_eq!(Ended::of(failed), Ended::Failed(Pushback::None));
        assert_eq!(Ended::of(failed.with_wait(Some(SEC))), Ended::Failed(Pushback::After(SEC)));
        assert_eq!(Ended::of(failed.with_wait(Some(MAX_WAIT + SEC))), Ended::Failed(Pushback::Never));
        let forbidden = Verdict { retry: Retry::Forbidden, ..failed };
        assert_eq!(Ended::of(forbidden), Ended::Failed(Pushback::Never));
        assert_eq!(Ended::of(Verdict { retry: Retry::Never, ..failed }), Ended::Answer);
        assert_eq!(Ended::of(Verdict::SUCCESS), Ended::Answer);
        assert_eq!(Ended::of(Verdict::UNDECIDED), Ended::Answer);
        assert_eq!(Ended::of(Verdict::REFUSED), Ended::Failed(Pushback::None));
    }
}
