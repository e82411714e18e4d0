use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_mesh_core::{BoxError, CallOptions, CallScope, Classify, Live, LiveReader, Replay, Sharded};
use tower_service::Service;

use super::future::{HedgeFuture, Hedging};
use crate::budget::RetryBudget;
use crate::config::HedgeConfig;
use crate::policy::hedge::HedgePolicy;
use crate::policy::latency::Latencies;
use crate::timer::clock;
use crate::told::HedgeTold;

/// Made by [`HedgeLayer`](crate::HedgeLayer).
///
/// The first attempt calls the inner service that [`poll_ready`](Service::poll_ready) made ready; each hedge makes a clone of its own ready, within
/// [`ready_timeout`](HedgeConfig::ready_timeout), and calls that. Dropping the future of a call drops all that is under way.
pub struct Hedge<S, C, R = C> {
    inner: S,
    config: LiveReader<HedgeConfig>,
    parts: Sharded<Parts<S, C, R>>,
}

/// What all calls share.
pub(super) struct Parts<S, C, R> {
    /// Where hedges clone their inner service from.
    pub(super) template: S,
    pub(super) config: Live<HedgeConfig>,
    pub(super) budget: RetryBudget,
    pub(super) counted_outside: bool,
    pub(super) classifier: C,
    pub(super) replay: R,
    pub(super) latencies: Arc<Latencies>,
    pub(super) told: Arc<HedgeTold>,
}

impl<S, C, R> Hedge<S, C, R> {
    pub(super) fn new(inner: S, config: LiveReader<HedgeConfig>, parts: Sharded<Parts<S, C, R>>) -> Self {
        Self { inner, config, parts }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The budget this takes its hedges from.
    pub fn budget(&self) -> &RetryBudget {
        &self.parts.budget
    }
}

impl<S, Req, C, R> Service<Req> for Hedge<S, C, R>
where
    R: Replay<Req, Sent: 'static> + 'static,
    S: Service<R::Sent> + Clone + 'static,
    S::Error: Into<BoxError>,
    C: Classify<S::Response> + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HedgeFuture<S, C, R, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let config = **self.config.get();
        let parts = &*self.parts;
        let sent = parts.replay.prepare(request);
        if config.max_hedges() == 0 {
            return HedgeFuture::new(self.inner.call(sent), None);
        }
        let mut scope = CallScope::join();
        let known = scope.with(|call| (call.deadline(), call.start(clock), call.options(), call.attempt()));
        let (deadline, now, options, attempt) =
            known.unwrap_or_else(|| (None, clock(), CallOptions::new(), 1));
        let allowed = options.get_max_attempts().map_or(config.max_hedges(), |attempts| {
            config.max_hedges().min(attempts.saturating_sub(attempt))
        });
        if !parts.counted_outside {
            parts.budget.deposit(now);
        }
        let idempotent = options.is_idempotent().unwrap_or_else(|| parts.replay.is_idempotent(&sent));
        let spare = if idempotent && allowed > 0 { parts.replay.copy(&sent) } else { None };
        let hedges = if spare.is_some() { allowed } else { 0 };
        if hedges == 0 && (parts.counted_outside || !parts.budget.is_throttled()) {
            return HedgeFuture::new(scope.run(|| self.inner.call(sent)), None);
        }
        let known = config.percentile().and_then(|percentile| parts.latencies.percentile(now, percentile));
        let delay = known.map_or(config.delay(), |known| known.max(HedgeConfig::MIN_MEASURED_DELAY));
        let measured = config.percentile().is_some();
        let policy = HedgePolicy::new(hedges, delay, now);
        let first = scope.run(|| self.inner.call(sent));
        // The clone counts on the thread that calls now, and stays; the call takes what was here.
        let clone = self.parts.clone();
        let parts = mem::replace(&mut self.parts, clone);
        HedgeFuture::new(first, Some(Hedging::new(parts, spare, scope, now, deadline, policy, measured)))
    }
}

impl<S: Clone, C, R> Clone for Hedge<S, C, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), config: self.config.clone(), parts: self.parts.clone() }
    }
}

impl<S: fmt::Debug, C, R> fmt::Debug for Hedge<S, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("inner", &self.inner)
            .field("config", self.config.live())
            .finish_non_exhaustive()
    }
}
