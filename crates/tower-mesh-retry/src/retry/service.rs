use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_mesh_core::{BoxError, CallOptions, CallScope, Classify, Live, LiveReader, Replay, Sharded};
use tower_service::Service;

use super::future::{Again, RetryFuture};
use crate::budget::RetryBudget;
use crate::config::RetryConfig;
use crate::timer::clock;
use crate::told::RetryTold;

/// Made by [`RetryLayer`](crate::RetryLayer).
///
/// The first attempt calls the inner service that [`poll_ready`](Service::poll_ready) made ready; the others make a clone ready, within the deadline and
/// [`ready_timeout`](RetryConfig::ready_timeout), and call that very value. A response future is [`Send`] if the inner service is `Send + Sync`. Between attempts nothing of the failed one is kept: its response is dropped
/// before the wait, not after it.
///
/// Dropping the future of a call drops the attempt under way, or ends the wait; nothing goes on behind it.
pub struct Retry<S, C, R = C> {
    inner: S,
    config: LiveReader<RetryConfig>,
    parts: Sharded<Parts<S, C, R>>,
}

/// What all calls share.
pub(super) struct Parts<S, C, R> {
    /// Where later attempts clone their inner service from, so that a call that needs none clones none.
    pub(super) template: S,
    pub(super) config: Live<RetryConfig>,
    pub(super) budget: RetryBudget,
    pub(super) classifier: C,
    pub(super) replay: R,
    pub(super) told: Arc<RetryTold>,
}

impl<S, C, R> Retry<S, C, R> {
    pub(super) fn new(inner: S, config: LiveReader<RetryConfig>, parts: Sharded<Parts<S, C, R>>) -> Self {
        Self { inner, config, parts }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
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

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let Parts { budget, replay, .. } = &*self.parts;
        let config = self.config.get();
        let attempt_timeout = config.attempt_timeout();
        let sent = replay.prepare(request);

        let mut scope = CallScope::join();
        let known = scope.with(|call| (call.deadline(), call.start(clock), call.options()));
        let (deadline, now, options) = known.unwrap_or_else(|| (None, clock(), CallOptions::new()));
        let idempotent = options.is_idempotent().unwrap_or_else(|| replay.is_idempotent(&sent));
        let attempts = options.get_max_attempts().unwrap_or_else(|| config.max_attempts());
        let spare = if attempts > 1 { replay.copy(&sent) } else { None };
        budget.deposit(now);
        let active = budget.enter();
        let expired = deadline.is_some_and(|deadline| deadline <= now);
        let again = (spare.is_some() || budget.is_throttled()).then(|| {
            // The clone counts on the thread that calls now, and stays; the call takes what was here.
            let clone = self.parts.clone();
            Again::new(spare, idempotent, mem::replace(&mut self.parts, clone))
        });
        let inner = &mut self.inner;
        let send = (!expired).then_some(|scope: &mut CallScope| scope.run(|| inner.call(sent)));
        RetryFuture::new(send, now, scope, deadline, attempt_timeout, again, active)
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
