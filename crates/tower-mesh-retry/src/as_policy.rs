//! The same decisions in tower's own `Retry`.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::classify::judge;
use tower_mesh_core::{CallContext, Classify, Live, Replay, Tried};

use crate::budget::{RetryBudget, RetryPermit};
use crate::config::{BudgetConfig, RetryConfig};
use crate::policy::decision::{Decision, Failed, RetryPolicy};
use crate::retry::future::is_new;
use crate::timer::clock;

/// A [`tower::retry::Policy`] that decides as [`RetryLayer`](crate::RetryLayer) does: judgement, attempts, waits, budget and throttle, the server's wishes, and
/// a deadline that would be outlasted.
///
/// What tower's `Retry` leaves no room for is not there: attempt timeouts, the bound on the wait for readiness, the error that gives an account, and
/// the throttle does not hear of requests that cannot be copied.
///
/// ```
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_mesh_core::{BoxError, classify::ByResult, replay::Idempotent};
/// use tower_mesh_retry::{RetryConfig, TowerPolicy};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let mut calls = 0;
/// let service = ServiceBuilder::new()
///     .retry(TowerPolicy::new(RetryConfig::default(), ByResult).replay(Idempotent))
///     .service(service_fn(move |n: u32| {
///         calls += 1;
///         std::future::ready(if calls == 1 { Err(BoxError::from("down")) } else { Ok(n) })
///     }));
/// assert_eq!(service.oneshot(7).await?, 7);
/// # Ok(())
/// # }
/// ```
pub struct TowerPolicy<C, R = C> {
    config: Live<RetryConfig>,
    budget: RetryBudget,
    classifier: C,
    replay: R,
    /// Of the call under way; none in the policy that calls are made from.
    call: Option<Call>,
}

struct Call {
    policy: RetryPolicy,
    tried_before: Tried,
    /// The retry under way, until its attempt has ended.
    _permit: RetryPermit,
}

impl<C: Clone> TowerPolicy<C> {
    /// A policy with a budget of its own, of the default configuration. `classifier` is also asked which requests can be sent twice, unless
    /// [`replay`](Self::replay) says otherwise.
    pub fn new(config: RetryConfig, classifier: C) -> Self {
        Self {
            config: Live::new(config),
            budget: RetryBudget::new(BudgetConfig::default()),
            replay: classifier.clone(),
            classifier,
            call: None,
        }
    }
}

impl<C, R> TowerPolicy<C, R> {
    /// Asks `replay` which requests can be sent twice.
    pub fn replay<R2>(self, replay: R2) -> TowerPolicy<C, R2> {
        let Self { config, budget, classifier, call, .. } = self;
        TowerPolicy { config, budget, classifier, replay, call }
    }

    /// Shares `budget` with whoever else has it.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// The configuration cell of this policy and its clones. A call keeps the configuration of its first failure.
    pub fn live(&self) -> &Live<RetryConfig> {
        &self.config
    }

    /// The budget of this policy and its clones.
    pub fn get_budget(&self) -> &RetryBudget {
        &self.budget
    }
}

/// tower clones the policy once for each call; what is under way is the original's.
impl<C: Clone, R: Clone> Clone for TowerPolicy<C, R> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            budget: self.budget.clone(),
            classifier: self.classifier.clone(),
            replay: self.replay.clone(),
            call: None,
        }
    }
}

impl<Req, Res, E, C, R> tower::retry::Policy<Req, Res, E> for TowerPolicy<C, R>
where
    C: Classify<Res>,
    R: Replay<Req, Sent = Req>,
    E: AsRef<dyn Error + Send + Sync + 'static>,
{
    type Future = Wait;

    fn retry(&mut self, request: &mut Req, result: &mut Result<Res, E>) -> Option<Wait> {
        let verdict = judge(&self.classifier, result.as_ref().map_err(AsRef::as_ref));
        self.budget.judged(verdict);
        let (policy, tried_before) = match self.call.take() {
            Some(Call { mut policy, tried_before, .. }) => {
                policy.begin();
                (policy, tried_before)
            }
            None if verdict.is_final() => return None,
            None => (RetryPolicy::new(*self.config.snapshot()), Tried::default()),
        };
        let mut policy = policy;
        let known = CallContext::with(|call| (call.ended(), call.deadline(), call.tried()));
        let (ended, deadline, tried) = known.unwrap_or_default();
        let now = ended.unwrap_or_else(clock);
        let failed = Failed {
            now,
            deadline,
            verdict,
            idempotent: self.replay.is_idempotent(request),
            new_endpoint: is_new(tried, tried_before),
            chance: Chance::Raw(fastrand::u64(..)),
        };
        let attempts = policy.attempts();
        // tower asks only where it has a copy.
        let decided = match policy.decide(&failed, || true) {
            Decision::Retry { after } => match self.budget.try_withdraw(now) {
                Ok(permit) => Ok((after, permit)),
                Err(denied) => Err(denied.into()),
            },
            Decision::Stop(reason) => Err(reason),
        };
        match decided {
            Ok((after, permit)) => {
                tracing::debug!(attempts, ?after, "sending again");
                CallContext::with(CallContext::next_attempt);
                self.call = Some(Call { policy, tried_before: tried, _permit: permit });
                Some(Wait::until(after))
            }
            Err(reason) => {
                tracing::debug!(attempts, %reason, "not sending again");
                if attempts > 1 {
                    CallContext::tell_gave_up();
                }
                None
            }
        }
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        if self.call.is_none() {
            self.budget.deposit(clock());
        }
        self.replay.copy(request)
    }
}

impl<C, R> fmt::Debug for TowerPolicy<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerPolicy")
            .field("config", &self.config.snapshot())
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// The wait before another attempt. None if it follows at once.
#[derive(Debug)]
pub struct Wait(Option<Pin<Box<Sleep>>>);

impl Wait {
    fn until(after: Duration) -> Self {
        Self((!after.is_zero()).then(|| Box::pin(tokio::time::sleep(after))))
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}
