use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::classify::{Retry as MayRetry, Verdict, judge};
use tower_mesh_core::{BoxError, CallContext, Classify, DropReason, Replay, Tick, Tried};
use tower_service::Service;

use super::service::Parts;
use crate::budget::RetryPermit;
use crate::error::{AttemptTimedOut, DeadlineExceeded, NotReady, RetriesExhausted};
use crate::policy::decision::{Decision, Failed, RetryPolicy, StopReason};
use crate::policy::limit::Limit;
use crate::timer::{Timer, clock, keep_deadline};

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
        #[pin]
        timer: Timer,
        call: CallContext,
        policy: RetryPolicy,
        // What the layers outside know this call by.
        first_began: Tick,
        // When the attempt under way began, the wait for readiness included.
        began: Tick,
        picked: Picked,
        // None if there is no other copy of the request.
        again: Option<Again<S, C, R, R::Sent>>,
        permit: Option<RetryPermit>,
    }

    impl<S, C, R, Req> PinnedDrop for RetryFuture<S, C, R, Req>
    where
        R: Replay<Req>,
        S: Service<R::Sent>,
    {
        // The reason of whoever drops this is lent with the reading of the first attempt; guards of later ones know another.
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let reason = CallContext::drop_reason_of(*this.first_began);
            if reason != DropReason::CallerGone {
                this.call.drop_for(reason, Clear(&mut this.state));
            }
        }
    }
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
    inner: S,
    /// Kept for the attempts after the next.
    spare: Option<Sent>,
    /// For the next attempt, from the moment when that is decided.
    next: Option<Sent>,
    idempotent: bool,
    parts: Arc<Parts<C, R>>,
}

impl<S, C, R, Sent> Again<S, C, R, Sent> {
    pub(super) fn new(inner: S, spare: Sent, idempotent: bool, parts: Arc<Parts<C, R>>) -> Self {
        Self { inner, spare: Some(spare), next: None, idempotent, parts }
    }
}

impl<S, C, R, Req> RetryFuture<S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent>,
{
    pub(super) fn new(
        attempt: Option<S::Future>,
        began: Tick,
        call: CallContext,
        policy: RetryPolicy,
        again: Option<Again<S, C, R, R::Sent>>,
    ) -> Self {
        Self {
            state: attempt.map_or(State::Expired, |attempt| State::Calling { attempt }),
            timer: Timer::default(),
            call,
            policy,
            first_began: began,
            began,
            picked: Picked::default(),
            again,
            permit: None,
        }
    }
}

impl<S, C, R, Req> Future for RetryFuture<S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let answer = this.poll(cx);
        if answer.is_pending() {
            keep_deadline(this.call);
        }
        answer
    }
}

impl<S, C, R, Req> RetryProj<'_, S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, BoxError>> {
        loop {
            match self.state.as_mut().project() {
                StateProj::Calling { attempt } => {
                    let result = match self.call.lend(|| attempt.poll(cx)) {
                        Poll::Ready(result) => result.map_err(Into::into),
                        Poll::Pending => {
                            let timeout = self.policy.config().attempt_timeout();
                            let limit = self.limit(timeout);
                            let Some(limit) = limit else {
                                return Poll::Pending;
                            };
                            ready!(self.timer.as_mut().poll_until(limit.at(), cx));
                            match limit {
                                Limit::Call(_) => return Poll::Ready(Err(self.expire())),
                                Limit::Attempt(_) => {
                                    self.abandon(DropReason::AttemptTimeout);
                                    Err(AttemptTimedOut::new(timeout.unwrap_or_default()).into())
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
                    ready!(self.timer.as_mut().poll_until(until, cx));
                    self.begin();
                }
                StateProj::Readying { at_once } => {
                    let Some(again) = self.again.as_mut() else {
                        unreachable!("an attempt is begun only with what it needs")
                    };
                    let failed = match self.call.lend(|| again.inner.poll_ready(cx)) {
                        Poll::Ready(Ok(())) => {
                            if !*at_once {
                                // The wait for readiness is no part of what the inner layers measure.
                                self.call.next_attempt();
                            }
                            self.send();
                            continue;
                        }
                        Poll::Ready(Err(error)) => error.into(),
                        Poll::Pending => {
                            *at_once = false;
                            let config = self.policy.config();
                            let patience = match config.attempt_timeout() {
                                Some(timeout) => timeout.min(config.ready_timeout()),
                                None => config.ready_timeout(),
                            };
                            let Some(limit) = self.limit(Some(patience)) else {
                                return Poll::Pending;
                            };
                            ready!(self.timer.as_mut().poll_until(limit.at(), cx));
                            match limit {
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

    /// The earlier of `patience` from the beginning of the attempt and the deadline.
    fn limit(&self, patience: Option<Duration>) -> Option<Limit> {
        let attempt = patience.map(|patience| *self.began + patience);
        Limit::earlier(attempt, self.call.deadline())
    }

    /// Another attempt, beginning with the wait for readiness.
    fn begin(&mut self) {
        self.call.next_attempt();
        *self.began = self.call.lend(|| CallContext::attempt_started(clock));
        *self.picked = Picked::now(self.call);
        self.policy.begin();
        let expired = self.call.deadline().is_some_and(|deadline| deadline < *self.began);
        self.state.set(if expired { State::Expired } else { State::Readying { at_once: true } });
    }

    /// Calls the inner service that has just become ready.
    fn send(&mut self) {
        let (call, again) = (&mut *self.call, &mut *self.again);
        let attempt = again.as_mut().and_then(|again| {
            let next = again.next.take()?;
            Some(call.lend(|| again.inner.call(next)))
        });
        let Some(attempt) = attempt else { unreachable!("an attempt is begun only with what it needs") };
        self.state.set(State::Calling { attempt });
    }

    /// An attempt has ended with `result`: the answer to the call, or none if another attempt follows.
    fn ended(&mut self, result: Result<S::Response, BoxError>) -> Option<Result<S::Response, BoxError>> {
        // The next retry does not compete with this one.
        *self.permit = None;
        let Some(mut again) = self.again.take() else {
            return Some(self.answer(result));
        };
        let parts = again.parts.clone();
        let verdict = judge(&parts.classifier, result.as_ref().map_err(|error| &**error));
        if verdict.retry == MayRetry::Never && (result.is_ok() || self.policy.attempts() == 1) {
            return Some(self.answer(result));
        }

        let now = self.call.ended().unwrap_or_else(clock);
        let failed = Failed {
            now,
            deadline: self.call.deadline(),
            verdict,
            idempotent: again.idempotent,
            new_endpoint: self.picked.is_new(self.call),
            chance: Chance::Raw(fastrand::u64(..)),
        };
        let decision = self.policy.decide(&failed, || {
            again.next = again.spare.as_ref().and_then(|spare| parts.replay.copy(spare));
            again.next.is_some()
        });
        let after = match decision {
            Decision::Retry { after } => after,
            Decision::Stop(reason) => return Some(self.give_up(reason, verdict, result)),
        };
        let Some(permit) = parts.budget.withdraw(now) else {
            return Some(self.give_up(StopReason::Budget, verdict, result));
        };
        tracing::debug!(attempts = self.policy.attempts(), ?after, "sending again");
        if !self.policy.attempts_left_after_next() {
            again.spare = None;
        }
        *self.permit = Some(permit);
        *self.again = Some(again);

        // What failed holds connections and permits: it goes before the wait.
        let (call, state) = (&mut *self.call, &mut self.state);
        call.lend(|| {
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
        verdict: Verdict,
        result: Result<S::Response, BoxError>,
    ) -> Result<S::Response, BoxError> {
        let attempts = self.policy.attempts();
        tracing::debug!(attempts, %reason, "not sending again");
        // After a single attempt only what could have been otherwise is worth telling.
        let told = attempts > 1
            || matches!(reason, StopReason::Budget | StopReason::Deadline | StopReason::Pushback);
        self.answer(match result {
            Err(error) if told => Err(RetriesExhausted::new(attempts, reason, verdict, error).into()),
            result => result,
        })
    }

    /// The call is over.
    fn answer(&mut self, result: Result<S::Response, BoxError>) -> Result<S::Response, BoxError> {
        self.finish();
        if let Some(at) = self.call.ended() {
            CallContext::attempt_ended(*self.first_began, || at);
        }
        result
    }

    /// The time of the whole call is over.
    fn expire(&mut self) -> BoxError {
        self.abandon(DropReason::DeadlineExceeded);
        self.finish();
        DeadlineExceeded::new().into()
    }

    /// Drops the attempt under way, or the place in a queue for one, and tells its guards why.
    fn abandon(&mut self, reason: DropReason) {
        let again = match reason {
            DropReason::DeadlineExceeded => self.again.take(),
            _ => None,
        };
        self.call.drop_for(reason, (Clear(&mut self.state), again));
    }

    fn finish(&mut self) {
        self.state.set(State::Done);
        *self.again = None;
        *self.permit = None;
    }
}

/// How far the list of endpoints tried went when an attempt began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Picked(Tried);

impl Picked {
    pub(super) fn now(call: &CallContext) -> Self {
        Self(call.tried())
    }

    /// Whether the attempt since went to an endpoint not tried before. A list that is full forgets its first, so its length alone does not tell.
    pub(super) fn is_new(&self, call: &CallContext) -> bool {
        let now = call.tried();
        now != self.0 && now.keys().split_last().is_some_and(|(last, before)| !before.contains(last))
    }
}

impl<S, C, R, Req> fmt::Debug for RetryFuture<S, C, R, Req>
where
    R: Replay<Req>,
    S: Service<R::Sent>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("attempts", &self.policy.attempts()).finish_non_exhaustive()
    }
}
