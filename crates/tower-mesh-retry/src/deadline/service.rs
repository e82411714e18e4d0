use std::task::{Context, Poll};

use tower_mesh_core::{BoxError, CallScope, LiveReader};
use tower_service::Service;

use super::future::DeadlineFuture;
use crate::config::DeadlineConfig;
use crate::timer::clock;

/// Made by [`DeadlineLayer`](crate::DeadlineLayer).
///
/// A call whose deadline has passed before it begins is not sent. Dropping its future drops the inner one.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
    config: LiveReader<DeadlineConfig>,
}

impl<S> Deadline<S> {
    pub(super) fn new(inner: S, config: LiveReader<DeadlineConfig>) -> Self {
        Self { inner, config }
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
}

impl<S, Req> Service<Req> for Deadline<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let configured = self.config.get().timeout();
        let mut scope = CallScope::begin();
        let expired = scope.with(|call| {
            let timeout = call.options().get_timeout().or(configured);
            // The reading stays in the context: one serves all inner layers.
            let bounded = timeout.is_some() || call.deadline().is_some();
            let now = bounded.then(|| call.start(clock))?;
            let expired = call.deadline().is_some_and(|deadline| deadline <= now);
            if let Some(timeout) = timeout {
                call.set_deadline(now + timeout);
            }
            Some(expired)
        });
        let expired = expired.flatten().unwrap_or(false);
        let call = (!expired).then_some(|scope: &mut CallScope| scope.run(|| self.inner.call(request)));
        DeadlineFuture::new(call, scope)
    }
}
