use std::fmt;
use std::mem;
use std::task::{Context, Poll};

use tower_mesh_core::{BoxError, CallScope, Classify, Live, LiveReader, Replay, Sharded};
use tower_service::Service;

use super::future::{Again, RetryFuture};
use crate::budget::RetryBudget;
use crate::config::RetryConfig;
use crate::timer::clock;

/// Made by [`RetryLayer`](crate::RetryLayer).
///
/// The first attempt calls the inner service that [`poll_ready`](Service::poll_ready) made ready; every other attempt makes it ready again, within the deadline and
/// [`ready_timeout`](RetryConfig::ready_timeout), and calls that very value. Between attempts nothing of the failed one is kept: its response is dropped
/// before the wait, not after it.
///
/// Dropping the future of a call drops the attempt under way, or ends the wait; nothing goes on behind it.
pub struct Retry<S, C, R = C> {
    inner: S,
    config: LiveReader<RetryConfig>,
    parts: Sharded<Parts<C, R>>,
}

/// What all calls share.
pub(super) struct Parts<C, R> {
    pub(super) config: Live<RetryConfig>,
    pub(super) budget: RetryBudget,
    pub(super) classifier: C,
    pub(super) replay: R,
}

impl<S, C, R> Retry<S, C, R> {
    pub(super) fn new(inner: S, config: LiveReader<RetryConfig>, parts: Sharded<Parts<C, R>>) -> Self {
        Self { inner, config, parts }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to change it.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// The budget this takes its retries from.
    pub fn budget(&self) -> &RetryBudget {
        &self.parts.budget
    }
}

impl<S, Req, C, R> Service<Req> for Retry<S, C, R>
where
    R: Replay<Req>,
    S: Service<R::Sent> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RetryFuture<S, C, R, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // A clone starts without the permit of its original: it stays here, and the one made ready is called.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);

        let Parts { budget, replay, .. } = &*self.parts;
        let config = self.config.get();
        let attempt_timeout = config.attempt_timeout();
        let sent = replay.prepare(request);
        let idempotent = replay.is_idempotent(&sent);
        let spare = if config.max_attempts() > 1 { replay.copy(&sent) } else { None };

        let mut scope = CallScope::join();
        let known = scope.with(|call| (call.deadline(), call.start(clock)));
        let (deadline, now) = known.unwrap_or_else(|| (None, clock()));
        budget.deposit(now);
        let expired = deadline.is_some_and(|deadline| deadline <= now);
        let attempt = (!expired).then(|| scope.run(|| inner.call(sent)));
        let again = spare.map(|spare| {
            // As with the inner service, what goes with the call is what this had: the clone counts on the thread that calls now.
            let clone = self.parts.clone();
            Again::new(inner, spare, idempotent, mem::replace(&mut self.parts, clone))
        });
        RetryFuture::new(attempt, now, scope, deadline, attempt_timeout, again)
    }
}

impl<S: Clone, C, R> Clone for Retry<S, C, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), config: self.config.clone(), parts: self.parts.clone() }
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for Retry<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("config", self.config.live())
            .finish_non_exhaustive()
    }
}
