use std::task::{Context, Poll};

use tower_mesh_core::{BoxError, CallContext, LiveReader};
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

    fn call(&mut self, request: Req) -> Self::Future {
        let timeout = self.config.get().timeout();
        let mut call = CallContext::inherit();
        let mut expired = false;
        if timeout.is_some() || call.deadline().is_some() {
            // The reading stays in the context: one serves all inner layers.
            let now = call.start(clock);
            expired = call.deadline().is_some_and(|deadline| deadline <= now);
            if let Some(timeout) = timeout {
                call = call.with_deadline(now + timeout);
            }
        }
        let future = (!expired).then(|| call.lend(|| self.inner.call(request)));
        DeadlineFuture::new(future, call)
    }
}
