//! After a failed attempt: again, and when, or not, and why.

use std::fmt;
use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::classify::{Outcome, Retry, Verdict};

use crate::budget::Denied;
use crate::config::RetryConfig;
use crate::policy::reason::FailureReason;

/// What one call remembers from failure to failure.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    config: RetryConfig,
    attempts: u32,
    backoffs: u32,
    last_delay: Duration,
    /// How many attempts failed for each reason.
    failures: [u8; FailureReason::COUNT],
}

/// One failed attempt.
#[derive(Debug, Clone, Copy)]
pub struct Failed {
    /// When it ended.
    pub now: Tick,
    /// When the whole call must have ended.
    pub deadline: Option<Tick>,
    /// The judgement on it.
    pub verdict: Verdict,
    /// Whether the request does no more when done twice.
    pub idempotent: bool,
    /// Whether it went to an endpoint that this call had not been sent to before.
    pub new_endpoint: bool,
    /// For the jitter.
    pub chance: Chance,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send again after this wait, if the budget gives a token.
    Retry {
        /// Zero: at once.
        after: Duration,
    },
    /// Answer what there is.
    Stop(StopReason),
}

/// Why a request is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// No time is left, or not enough for the wait before another attempt.
    Deadline,
    /// It has been sent as often as it may.
    Attempts,
    /// It has failed as often as it may for the reason of the last failure.
    AttemptsForReason,
    /// There is no other copy of the request.
    NotReplayable,
    /// The failure is one that another attempt does not cure.
    NotRetryable,
    /// The server may have acted on the request, and doing it twice does harm.
    NotIdempotent,
    /// The server asked for a longer wait than is obeyed, or not to be asked again.
    Pushback,
    /// The budget for retries is spent.
    Budget,
    /// Too much has failed lately.
    Throttled,
}

impl StopReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::Deadline,
        Self::Attempts,
        Self::AttemptsForReason,
        Self::NotReplayable,
        Self::NotRetryable,
        Self::NotIdempotent,
        Self::Pushback,
        Self::Budget,
        Self::Throttled,
    ];

    /// Its name in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Attempts => "attempts",
            Self::AttemptsForReason => "attempts-for-reason",
            Self::NotReplayable => "not-replayable",
            Self::NotRetryable => "not-retryable",
            Self::NotIdempotent => "not-idempotent",
            Self::Pushback => "pushback",
            Self::Budget => "budget",
            Self::Throttled => "throttled",
        }
    }
}

impl From<Denied> for StopReason {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Spent => Self::Budget,
            Denied::Throttled => Self::Throttled,
        }
    }
}

impl RetryPolicy {
    /// The state of a call whose first attempt is under way.
    pub const fn new(config: RetryConfig) -> Self {
        Self {
            config,
            attempts: 1,
            backoffs: 0,
            last_delay: Duration::ZERO,
            failures: [0; FailureReason::COUNT],
        }
    }

    /// How it is configured.
    pub const fn config(&self) -> &RetryConfig {
        &self.config
    }

    /// How many attempts have begun.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the number of attempts allows another.
    pub const fn attempts_left(&self) -> bool {
        self.attempts < self.config.max_attempts()
    }

    /// Whether the number of attempts allows another after the next.
    pub const fn attempts_left_after_next(&self) -> bool {
        self.attempts + 1 < self.config.max_attempts()
    }

    /// Counts the beginning of another attempt.
    pub const fn begin(&mut self) {
        self.attempts += 1;
    }

    /// What to do about `failed`. The order of the checks is part of the contract; the budget, asked by the shell, comes last, so that a refused
    /// retry costs nothing. `replayable` is asked only when time and number allow another attempt.
    ///
    /// A server's wait is a lower bound and leaves the exponential state alone; so does a retry at once, which is for a request that
    /// certainly was not acted on and has another endpoint to go to.
    pub fn decide(&mut self, failed: &Failed, replayable: impl FnOnce() -> bool) -> Decision {
        let reason = FailureReason::of(failed.verdict.outcome);
        // At most as many as there are attempts, 20.
        let failures = &mut self.failures[reason as usize];
        *failures = failures.saturating_add(1);
        let failures = u32::from(*failures);
        let left = failed.deadline.map(|deadline| deadline.since(failed.now));
        if left.is_some_and(|left| left.is_zero()) {
            return Decision::Stop(StopReason::Deadline);
        }
        if !self.attempts_left() {
            return Decision::Stop(StopReason::Attempts);
        }
        if self.config.max_failures_for(reason).is_some_and(|most| failures >= most) {
            return Decision::Stop(StopReason::AttemptsForReason);
        }
        if !replayable() {
            return Decision::Stop(StopReason::NotReplayable);
        }
        match failed.verdict.retry {
            _ if !may_follow(failed.verdict.outcome) => return Decision::Stop(StopReason::NotRetryable),
            Retry::Never => return Decision::Stop(StopReason::NotRetryable),
            Retry::Forbidden => return Decision::Stop(StopReason::Pushback),
            Retry::IfIdempotent if !failed.idempotent => return Decision::Stop(StopReason::NotIdempotent),
            Retry::IfIdempotent | Retry::NotProcessed => {}
        }
        let (after, advance) = match failed.verdict.wait {
            Some(wait) if wait > self.config.max_wait() => return Decision::Stop(StopReason::Pushback),
            Some(wait) => (lower_bound_jitter(wait, failed.chance), false),
            None if failed.verdict.retry == Retry::NotProcessed && failed.new_endpoint => {
                (Duration::ZERO, false)
            }
            None => {
                let backoff = self.config.backoff();
                (backoff.delay(self.backoffs + 1, self.last_delay, failed.chance), true)
            }
        };
        if left.is_some_and(|left| after > left) {
            return Decision::Stop(StopReason::Deadline);
        }
        if advance {
            self.backoffs += 1;
            self.last_delay = after;
        }
        Decision::Retry { after }
    }
}

/// Whether another attempt may follow `outcome` at all.
fn may_follow(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Failure(_) | Outcome::Refused | Outcome::Ignored => true,
        Outcome::Success | Outcome::Undecided => false,
    }
}

/// A wait of at least `wait` and less than half as much again (Envoy), so that clients told the same do not come back together.
pub fn lower_bound_jitter(wait: Duration, chance: Chance) -> Duration {
    let half = u64::try_from((wait / 2).as_nanos()).unwrap_or(u64::MAX);
    wait.saturating_add(Duration::from_nanos(chance.below(half)))
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "not enough time is left",
            Self::Attempts => "no attempts are left",
            Self::AttemptsForReason => "no attempts are left after failures of this kind",
            Self::NotReplayable => "the request cannot be sent twice",
            Self::NotRetryable => "another attempt would not help",
            Self::NotIdempotent => "the request may have been acted on",
            Self::Pushback => "the server asked not to be tried again so soon",
            Self::Budget => "the retry budget is spent",
            Self::Throttled => "too much has failed lately",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_mesh_core::backoff::Jitter;
    use tower_mesh_core::classify::Origin;

    const SEC: Duration = Duration::from_secs(1);

    fn policy() -> RetryPolicy {
        let config = RetryConfig::builder().jitter(Jitter::None).max_attempts(5).build();
        RetryPolicy::new(config.unwrap())
    }

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; it does not pass")]
    fn failed(retry: Retry) -> Failed {
        Failed {
            now: Tick::of(std::time::Instant::now()),
            deadline: None,
            verdict: Verdict::failure(Origin::Remote, retry),
            idempotent: true,
            new_endpoint: true,
            chance: Chance::Uniform(0.5),
        }
    }

    /// Each check wins over all that come after it: everything is wrong, then one thing after the other is put right.
    #[test]
    fn checks_come_in_the_order_of_the_contract() {
        let mut it = failed(Retry::Never);
        it.deadline = Some(it.now);
        it.idempotent = false;
        it.verdict.wait = Some(301 * SEC);
        let mut spent = policy();
        (1..5).for_each(|_| spent.begin());

        assert_eq!(spent.decide(&it, || false), Decision::Stop(StopReason::Deadline));
        it.deadline = Some(it.now + SEC);
        assert_eq!(
            spent.decide(&it, || unreachable!("asked only while another attempt is allowed")),
            Decision::Stop(StopReason::Attempts)
        );
        let mut fresh = policy();
        assert_eq!(fresh.decide(&it, || false), Decision::Stop(StopReason::NotReplayable));
        assert_eq!(fresh.decide(&it, || true), Decision::Stop(StopReason::NotRetryable));
        it.verdict.retry = Retry::Forbidden;
        assert_eq!(fresh.decide(&it, || true), Decision::Stop(StopReason::Pushback));
        it.verdict.retry = Retry::IfIdempotent;
        assert_eq!(fresh.decide(&it, || true), Decision::Stop(StopReason::NotIdempotent));
        it.idempotent = true;
        assert_eq!(fresh.decide(&it, || true), Decision::Stop(StopReason::Pushback));
        it.verdict.wait = Some(2 * SEC);
        assert_eq!(fresh.decide(&it, || true), Decision::Stop(StopReason::Deadline));
        it.deadline = Some(it.now + 3 * SEC);
        assert_eq!(fresh.decide(&it, || true), Decision::Retry { after: 5 * SEC / 2 });
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let config = RetryConfig::builder().max_attempts(20).max_overloads(1).max_local_failures(2).build();
        let because = |origin| Failed {
            verdict: Verdict::failure(origin, Retry::IfIdempotent),
            ..failed(Retry::Never)
        };
        let (local, remote, overload) =
            (because(Origin::Local), because(Origin::Remote), because(Origin::Overload));
        let mut policy = RetryPolicy::new(config.unwrap());
        let stop = Decision::Stop(StopReason::AttemptsForReason);
        for (it, stops) in
            [(&remote, false), (&local, false), (&remote, false), (&remote, false), (&local, true)]
        {
            assert_eq!(policy.decide(it, || true) == stop, stops);
        }
        assert_eq!(policy.decide(&overload, || true), stop, "the first is one too many");
    }

    #[test]
    fn the_certainly_unprocessed_needs_no_idempotency() {
        let mut it = failed(Retry::NotProcessed);
        it.idempotent = false;
        assert!(matches!(policy().decide(&it, || true), Decision::Retry { .. }));
        it.verdict.outcome = Outcome::Success;
        assert_eq!(
            policy().decide(&it, || true),
            Decision::Stop(StopReason::NotRetryable),
            "what succeeded is never sent again"
        );
    }

    #[test]
    fn waits_told_by_the_server_and_retries_at_once_do_not_advance_the_backoff() {
        let mut policy = policy();
        let backoff = failed(Retry::IfIdempotent);
        let mut pushed = backoff;
        pushed.verdict.wait = Some(7 * SEC);
        let at_once = failed(Retry::NotProcessed);

        let mut after = |it: &Failed| match policy.decide(it, || true) {
            Decision::Retry { after } => after,
            stop => panic!("{stop:?}"),
        };
        assert_eq!(after(&at_once), Duration::ZERO);
        assert_eq!(after(&backoff), SEC);
        assert_eq!(after(&pushed), 7 * SEC + 7 * SEC / 4);
        assert_eq!(after(&at_once), Duration::ZERO);
        assert_eq!(after(&backoff), 2 * SEC);
        let nowhere_else = Failed { new_endpoint: false, ..at_once };
        assert_eq!(after(&nowhere_else), 4 * SEC);
    }

    #[test]
    fn a_wait_that_fits_exactly_is_slept_and_one_that_does_not_leaves_no_trace() {
        let mut policy = policy();
        let mut it = failed(Retry::IfIdempotent);
        it.deadline = Some(it.now + (SEC - Duration::from_nanos(1)));
        assert_eq!(policy.decide(&it, || true), Decision::Stop(StopReason::Deadline));
        it.deadline = Some(it.now + SEC);
        assert_eq!(policy.decide(&it, || true), Decision::Retry { after: SEC });
    }

    #[test]
    fn a_server_wait_is_a_floor_with_half_as_much_on_top() {
        for draw in 0..1000 {
            let wait = lower_bound_jitter(SEC, Chance::Uniform(f64::from(draw) / 1000.0));
            assert!(wait >= SEC && wait < SEC + SEC / 2);
        }
        assert_eq!(lower_bound_jitter(Duration::ZERO, Chance::Raw(9)), Duration::ZERO);
        assert!(lower_bound_jitter(Duration::MAX, Chance::Raw(u64::MAX)) == Duration::MAX);
    }
}
