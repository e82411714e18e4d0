use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::classify::{Retry as MayRetry, Verdict, judge};
use tower_mesh_core::{
    BoxError, CallContext, CallScope, Classify, DropReason, EndpointHandle, Replay, Sharded, Tick, Tried,
};
use tower_service::Service;
use tracing::Span;

use super::service::Parts;
use crate::budget::{ActiveCall, RetryPermit};
use crate::error::{Attempt, AttemptTimedOut, DeadlineExceeded, FailureReason, NotReady, RetriesExhausted};
use crate::policy::decision::{Decision, Failed, RetryPolicy, StopReason};
use crate::policy::limit::Limit;
use crate::timer::{Timer, clock};
use crate::told::{GaveUp, field};

pin_project! {
    /// A call that may be sent more than once.
    #[project = RetryProj]
    pub struct RetryFuture<S, C, R, Req>
    where
        R: Replay<Req>,
        S: Service<R::Sent>,
    {
        #[pin]
        state: State<S::Future>,
        timer: Timer,
        scope: CallScope,
        deadline: Option<Tick>,
        // In nanoseconds: half the room of a duration, in a future that is moved several times.
        attempt_timeout: Option<NonZeroU64>,
        // When the attempt under way began, the wait for readiness included.
        began: Tick,
        // None if there is no other copy of the request, and nobody who counts failures.
        again: Option<Again<S, C, R, R::Sent>>,
        // What only a call that has failed once needs; made then.
        retrying: Option<Box<Retrying<S, R::Sent>>>,
        _active: Option<ActiveCall>,
    }
}

/// The state of a call after its first failure.
struct Retrying<S, Sent> {
    policy: RetryPolicy,
    /// The inner service of later attempts, from the second on.
    inner: Option<S>,
    /// For the next attempt, from the moment when that is decided.
    next: Option<Sent>,
    /// The endpoints tried when the attempt under way began.
    tried_before: Tried,
    permit: Option<RetryPermit>,
    /// The attempts that have failed.
    history: Vec<Attempt>,
    /// The wait before the attempt under way.
    waited: Duration,
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        // Polls an attempt.
        Calling { #[pin] attempt: F },
        // Polls the timer between attempts; nothing of the last one is left.
        Waiting { until: Tick },
        // Polls the inner service for another attempt.
        Readying { at_once: bool },
        // The deadline had passed before anything was sent.
        Expired,
        Done,
    }
}

/// Drops what a state holds, at a time of its owner's choosing.
struct Clear<'a, 'p, F>(&'a mut Pin<&'p mut State<F>>);

impl<F> Drop for Clear<'_, '_, F> {
    fn drop(&mut self) {
        self.0.set(State::Done);
    }
}

/// What another attempt needs.
pub(super) struct Again<S, C, R, Sent> {
    /// Kept for the attempts after the next.
    spare: Option<Sent>,
    idempotent: bool,
    parts: Sharded<Parts<S, C, R>>,
}

impl<S, C, R, Sent> Again<S, C, R, Sent> {
    pub(super) fn new(spare: Option<Sent>, idempotent: bool, parts: Sharded<Parts<S, C, R>>) -> Self {
        Self { spare, idempotent, parts }
    }
}

impl<S, C, R, Req> RetryFuture<S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent>,
{
    /// `send` makes the first attempt; none if the deadline had passed before anything was sent. What it gives is built where it stays: with each layer the future
    /// grows, and moving it is what a call costs most.
    #[inline(always)]
    pub(super) fn new(
        send: Option<impl FnOnce(&mut CallScope) -> S::Future>,
        began: Tick,
        mut scope: CallScope,
        deadline: Option<Tick>,
        attempt_timeout: Option<Duration>,
        again: Option<Again<S, C, R, R::Sent>>,
        active: Option<ActiveCall>,
    ) -> Self {
        Self {
            state: match send {
                Some(send) => State::Calling { attempt: send(&mut scope) },
                None => State::Expired,
            },
            timer: Timer::default(),
            scope,
            deadline,
            attempt_timeout: attempt_timeout.map(nanos),
            began,
            again,
            retrying: None,
            _active: active,
        }
    }
}

impl<S, C, R, Req> Future for RetryFuture<S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let answer = this.poll(cx);
        if answer.is_pending() && this.deadline.is_some() {
            // The timer below ends the call by then: whoever owns the deadline need not arm another.
            this.scope.with(CallContext::keep_deadline);
        }
        answer
    }
}

impl<S, C, R, Req> RetryProj<'_, S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, BoxError>> {
        loop {
            match self.state.as_mut().project() {
                StateProj::Calling { attempt } => {
                    let result = match self.scope.run(|| attempt.poll(cx)) {
                        Poll::Ready(result) => result.map_err(Into::into),
                        Poll::Pending => {
                            match ready!(self.poll_limit(self.attempt_timeout.map(duration), cx)) {
                                Limit::Call(_) => return Poll::Ready(Err(self.expire())),
                                Limit::Attempt(_) => {
                                    let state = Clear(&mut self.state);
                                    self.scope.drop_for(DropReason::AttemptTimeout, state);
                                    Err(AttemptTimedOut::new(
                                        self.attempt_timeout.map(duration).unwrap_or_default(),
                                    )
                                    .into())
                                }
                            }
                        }
                    };
                    if let Some(answer) = self.ended(result) {
                        return Poll::Ready(answer);
                    }
                }
                StateProj::Waiting { until } => {
                    let until = *until;
                    ready!(self.timer.poll_until(until, cx));
                    self.begin();
                }
                StateProj::Readying { at_once } => {
                    let (again, retrying) = (self.again.as_ref(), self.retrying.as_mut());
                    let (again, retrying) = again.zip(retrying).expect(ONLY_WITH_WHAT_IT_NEEDS);
                    let inner = retrying.inner.get_or_insert_with(|| again.parts.template.clone());
                    let failed = match self.scope.run(|| inner.poll_ready(cx)) {
                        Poll::Ready(Ok(())) => {
                            if !*at_once {
                                // The wait for readiness is no part of what the inner layers measure.
                                self.scope.with(CallContext::next_attempt);
                            }
                            self.send();
                            continue;
                        }
                        Poll::Ready(Err(error)) => error.into(),
                        Poll::Pending => {
                            *at_once = false;
                            let patience = self.patience();
                            match ready!(self.poll_limit(Some(patience), cx)) {
                                Limit::Call(_) => return Poll::Ready(Err(self.expire())),
                                Limit::Attempt(_) => NotReady::new(patience).into(),
                            }
                        }
                    };
                    if let Some(answer) = self.ended(Err(failed)) {
                        return Poll::Ready(answer);
                    }
                }
                StateProj::Expired => return Poll::Ready(Err(self.expire())),
                StateProj::Done => panic!("a future was polled after it had ended"),
            }
        }
    }

    /// Waits for the earlier of `patience` from the beginning of the attempt and the deadline; for ever if there is neither, as the call it is asked about
    /// may then take as long as it likes.
    fn poll_limit(&mut self, patience: Option<Duration>, cx: &mut Context<'_>) -> Poll<Limit> {
        let attempt = patience.map(|patience| *self.began + patience);
        match Limit::earlier(attempt, *self.deadline) {
            Some(limit) => self.timer.poll_until(limit.at(), cx).map(|()| limit),
            None => Poll::Pending,
        }
    }

    /// How long a later attempt waits for readiness.
    fn patience(&self) -> Duration {
        let ready_timeout = self.retrying.as_ref().map(|retrying| retrying.policy.config().ready_timeout());
        let ready_timeout = ready_timeout.expect("a later attempt follows a failed one");
        self.attempt_timeout.map_or(ready_timeout, |timeout| duration(timeout).min(ready_timeout))
    }

    /// Another attempt, beginning with the wait for readiness.
    fn begin(&mut self) {
        self.scope.with(CallContext::next_attempt);
        *self.began = self.scope.with(|call| call.start(clock)).unwrap_or_else(clock);
        let tried = self.scope.with(|call| call.tried()).unwrap_or_default();
        if let Some(retrying) = self.retrying {
            retrying.tried_before = tried;
            retrying.policy.begin();
            let number = retrying.policy.attempts();
            self.scope.with(|call| call.set_attempt(number));
        }
        let expired = self.deadline.is_some_and(|deadline| deadline < *self.began);
        self.state.set(if expired { State::Expired } else { State::Readying { at_once: true } });
    }

    /// Calls the inner service that has just become ready.
    fn send(&mut self) {
        let (scope, retrying) = (&mut *self.scope, &mut *self.retrying);
        let attempt = retrying.as_mut().and_then(|retrying| {
            let (inner, next) = (retrying.inner.as_mut()?, retrying.next.take()?);
            Some(scope.run(|| inner.call(next)))
        });
        let attempt = attempt.expect(ONLY_WITH_WHAT_IT_NEEDS);
        self.state.set(State::Calling { attempt });
    }

    /// An attempt has ended with `result`: the answer to the call, or none if another attempt follows.
    fn ended(&mut self, result: Result<S::Response, BoxError>) -> Option<Result<S::Response, BoxError>> {
        let verdict = match self.again {
            Some(again) => judge(&again.parts.classifier, result.as_ref().map_err(|error| &**error)),
            None => return Some(result),
        };
        if let Some(again) = self.again {
            again.parts.budget.judged(verdict);
        }
        let attempts = self.retrying.as_ref().map_or(1, |retrying| retrying.policy.attempts());
        if verdict.retry == MayRetry::Never && (result.is_ok() || attempts == 1) {
            // What is left goes with this future, which its caller drops now: doing it here as well would be done twice.
            return Some(result);
        }
        self.failed(verdict, result)
    }

    #[cold]
    fn failed(
        &mut self,
        verdict: Verdict,
        result: Result<S::Response, BoxError>,
    ) -> Option<Result<S::Response, BoxError>> {
        let known = self.scope.with(|call| (call.ended(), call.tried(), call.options()));
        let (now, tried, options) = known.unwrap_or_default();
        let now = now.unwrap_or_else(clock);
        let mut again = self.again.take().expect("only a call that can be sent again gets here");
        let parts = again.parts.clone();
        let retrying = self.retrying.get_or_insert_with(|| {
            let policy = RetryPolicy::new(parts.config.snapshot().with_options(options));
            Box::new(Retrying {
                policy,
                inner: None,
                next: None,
                tried_before: Tried::default(),
                permit: None,
                history: Vec::with_capacity(policy.config().max_attempts() as usize),
                waited: Duration::ZERO,
            })
        });
        let went = (tried != retrying.tried_before).then(|| tried.keys().last().copied()).flatten();
        let went = went.and_then(EndpointHandle::id_of);
        let reason = FailureReason::of(verdict.outcome);
        Span::current().record(field::REASON, reason.as_str());
        retrying.history.push(Attempt { reason, after: retrying.waited, endpoint: went.clone() });
        // The next retry does not compete with this one.
        retrying.permit = None;
        let failed = Failed {
            now,
            deadline: *self.deadline,
            verdict,
            idempotent: again.idempotent,
            new_endpoint: is_new(tried, retrying.tried_before),
            chance: Chance::Raw(fastrand::u64(..)),
        };
        let mut next = None;
        let decision = retrying.policy.decide(&failed, || {
            next = again.spare.as_ref().and_then(|spare| parts.replay.copy(spare));
            next.is_some()
        });
        let after = match decision {
            Decision::Retry { after } => after,
            Decision::Stop(reason) => {
                // With the copy that is not sent: a body that is still being read is then read to its end. And with what may wait for a place to become ready.
                drop((again, next, retrying.inner.take()));
                return Some(self.give_up(reason, &parts, now, verdict, result));
            }
        };
        let permit = match parts.budget.try_withdraw(now) {
            Ok(permit) => permit,
            Err(denied) => {
                drop((again, next, retrying.inner.take()));
                return Some(self.give_up(denied.into(), &parts, now, verdict, result));
            }
        };
        tracing::debug!(
            attempts = retrying.policy.attempts(),
            reason = reason.as_str(),
            endpoint = went.as_ref().map(tracing::field::display),
            ?after,
            "sending again"
        );
        parts.told.again(reason);
        let span = Span::current();
        span.record(field::ATTEMPTS, retrying.policy.attempts() + 1);
        span.record(field::DELAY_MS, u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        retrying.waited = after;
        if !retrying.policy.attempts_left_after_next() {
            again.spare = None;
        }
        retrying.permit = Some(permit);
        retrying.next = next;
        *self.again = Some(again);

        // What failed holds connections and permits: it goes before the wait.
        let (scope, state) = (&mut *self.scope, &mut self.state);
        scope.run(|| {
            drop(result);
            state.set(State::Waiting { until: now + after });
        });
        if after.is_zero() {
            self.begin();
        }
        None
    }

    fn give_up(
        &mut self,
        reason: StopReason,
        parts: &Parts<S, C, R>,
        now: Tick,
        verdict: Verdict,
        result: Result<S::Response, BoxError>,
    ) -> Result<S::Response, BoxError> {
        let history =
            self.retrying.as_mut().map(|retrying| std::mem::take(&mut retrying.history)).unwrap_or_default();
        let attempts = history.len();
        let budget = parts.budget.snapshot(now);
        tracing::debug!(attempts, %reason, balance = budget.balance, "not sending again");
        Span::current().record(field::STOPPED, reason.as_str()).record(field::BALANCE, budget.balance);
        parts.told.gave_up(reason, || GaveUp {
            operation: self.scope.with(|call| call.operation()).flatten(),
            attempts: history.clone(),
            reason,
            budget,
        });
        if attempts > 1 || verdict.retry == MayRetry::Forbidden {
            CallContext::tell_gave_up();
        }
        // After a single attempt only what could have been otherwise is worth telling.
        let told = attempts > 1
            || matches!(
                reason,
                StopReason::Budget | StopReason::Throttled | StopReason::Deadline | StopReason::Pushback
            );
        match result {
            Err(error) if told => Err(RetriesExhausted::new(history, reason, budget, verdict, error).into()),
            result => result,
        }
    }

    /// The time of the whole call is over: drops what is under way and tells its guards why.
    fn expire(&mut self) -> BoxError {
        let rest = (self.again.take(), self.retrying.take());
        self.scope.drop_for(DropReason::DeadlineExceeded, (Clear(&mut self.state), rest));
        DeadlineExceeded::new().into()
    }
}

const ONLY_WITH_WHAT_IT_NEEDS: &str = "an attempt is begun only with what it needs";

fn nanos(timeout: Duration) -> NonZeroU64 {
    u64::try_from(timeout.as_nanos()).ok().and_then(NonZeroU64::new).unwrap_or(NonZeroU64::MAX)
}

fn duration(nanos: NonZeroU64) -> Duration {
    Duration::from_nanos(nanos.get())
}

/// Whether the last of the endpoints `tried` is one that had not been tried `before`, so that there may be yet another.
pub(crate) fn is_new(tried: Tried, before: Tried) -> bool {
    tried != before && tried.keys().split_last().is_some_and(|(last, earlier)| !earlier.contains(last))
}

impl<S, C, R, Req> fmt::Debug for RetryFuture<S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
