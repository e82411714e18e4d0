//! Why a call ended without an answer of the inner service, or with its last one.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_core::error::Judged;
use tower_mesh_core::{BoxError, EndpointId};

use crate::budget::BudgetSnapshot;
pub use crate::policy::decision::StopReason;
pub use crate::policy::reason::FailureReason;

/// An attempt took longer than one attempt may. Another may follow, if doing the request twice does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptTimedOut {
    timeout: Duration,
}

impl AttemptTimedOut {
    pub(crate) const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// How long the attempt was given.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl fmt::Display for AttemptTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within the {:?} of one attempt", self.timeout)
    }
}

impl Error for AttemptTimedOut {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        static JUDGED: Judged = Judged::new(Verdict::failure(Origin::Local, Retry::IfIdempotent));
        Some(&JUDGED)
    }
}

/// The deadline of the whole call passed. Final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlineExceeded(());

impl DeadlineExceeded {
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

impl fmt::Display for DeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline of the call has passed")
    }
}

impl Error for DeadlineExceeded {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        static JUDGED: Judged = Judged::new(Verdict::failure(Origin::Local, Retry::Never));
        Some(&JUDGED)
    }
}

/// The inner service did not become ready for another attempt in time. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotReady {
    waited: Duration,
}

impl NotReady {
    pub(crate) const fn new(waited: Duration) -> Self {
        Self { waited }
    }

    /// How long the attempt waited.
    pub const fn waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not ready for another attempt within {:?}", self.waited)
    }
}

impl Error for NotReady {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        static JUDGED: Judged = Judged::new(Verdict::REFUSED);
        Some(&JUDGED)
    }
}

/// The request could have been sent again and is not: its source is the last error.
///
/// It is answered after at least two attempts, and after a single one where the budget, the deadline or the server's wish kept it from another. An
/// error after which there was nothing to try again comes out as it is. Layers above read in it that the request is not to be sent again, so nested
/// retries do not multiply.
#[derive(Debug)]
pub struct RetriesExhausted {
    attempts: Vec<Attempt>,
    reason: StopReason,
    budget: BudgetSnapshot,
    judged: Judged,
}

/// One of the attempts of a call that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub(crate) reason: FailureReason,
    pub(crate) after: Duration,
    pub(crate) endpoint: Option<EndpointId>,
}

impl Attempt {
    /// Why it failed.
    pub const fn reason(&self) -> FailureReason {
        self.reason
    }

    /// The wait before it; zero for the first.
    pub const fn after(&self) -> Duration {
        self.after
    }

    /// The endpoint it went to, if a load balancer told and it was still there when the attempt failed. Of a hedged attempt the latest.
    pub const fn endpoint(&self) -> Option<&EndpointId> {
        self.endpoint.as_ref()
    }
}

impl RetriesExhausted {
    pub(crate) fn new(
        attempts: Vec<Attempt>,
        reason: StopReason,
        budget: BudgetSnapshot,
        last: Verdict,
        error: BoxError,
    ) -> Self {
        let verdict = Verdict { retry: Retry::Never, ..last };
        Self { attempts, reason, budget, judged: Judged::because(verdict, error) }
    }

    /// How many attempts there were.
    pub const fn attempts(&self) -> u32 {
        self.attempts.len() as u32
    }

    /// The attempts, in their order.
    pub fn history(&self) -> &[Attempt] {
        &self.attempts
    }

    /// What the budget held when the call was given up.
    pub const fn budget(&self) -> &BudgetSnapshot {
        &self.budget
    }

    /// Why there was no other.
    pub const fn reason(&self) -> StopReason {
        self.reason
    }

    /// How long the server asked to wait, if it did.
    pub const fn retry_after(&self) -> Option<Duration> {
        self.judged.verdict().wait
    }

    /// The last error.
    pub fn last(&self) -> &(dyn Error + Send + Sync + 'static) {
        self.judged.cause().unwrap_or(&self.judged)
    }
}

impl fmt::Display for RetriesExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (attempts, plural) = (self.attempts(), if self.attempts() == 1 { "" } else { "s" });
        write!(f, "gave up after {attempts} attempt{plural}: {}", self.reason)
    }
}

impl Error for RetriesExhausted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.judged)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::classify::{ByResult, Outcome, judge};
    use tower_mesh_core::error::find;

    use super::*;

    #[test]
    fn giving_up_is_final_and_hides_no_cause() {
        let last =
            Verdict::failure(Origin::Remote, Retry::IfIdempotent).with_wait(Some(Duration::from_secs(9)));
        let cause: BoxError = Box::new(AttemptTimedOut::new(Duration::from_secs(1)));
        let budget = crate::RetryBudget::new(crate::BudgetConfig::default()).snapshot(crate::timer::clock());
        let attempt = Attempt { reason: FailureReason::Remote, after: Duration::ZERO, endpoint: None };
        let inner =
            RetriesExhausted::new(vec![attempt.clone(); 3], StopReason::Attempts, budget, last, cause);
        assert_eq!(inner.retry_after(), Some(Duration::from_secs(9)));
        let outer: BoxError = Box::new(RetriesExhausted::new(
            vec![attempt; 2],
            StopReason::Budget,
            budget,
            last,
            Box::new(inner),
        ));

        let verdict = judge::<(), _>(&ByResult, Err(&*outer));
        assert_eq!(verdict.retry, Retry::Never);
        assert_eq!(verdict.outcome, Outcome::Failure(Origin::Remote), "it still counts as what it was");
        assert!(find::<AttemptTimedOut>(&*outer).is_some());
        assert_eq!(find::<RetriesExhausted>(&*outer).unwrap().attempts(), 2);
        let mut chain = vec![outer.to_string()];
        let mut next = outer.source();
        while let Some(error) = next {
            chain.push(error.to_string());
            next = error.source();
        }
        assert_eq!(
            chain,
            [
                "gave up after 2 attempts: the retry budget is spent",
                "not to be sent again",
                "gave up after 3 attempts: no attempts are left",
                "not to be sent again",
                "no answer within the 1s of one attempt",
                "may be sent again if it is idempotent",
            ],
            "each link is told once"
        );
    }
}
