//! Spans of calls and attempts. Their names, fields and values are part of the public interface: the table is in the crate's README.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower_mesh_core::classify::{Outcome, judge};
use tower_mesh_core::{
    BoxError, CallContext, Classify, DropReason, EndpointHandle, EndpointId, Operation, ServiceName, Tick,
};
use tower_mesh_retry::error::FailureReason;
use tower_service::Service;
use tracing::Span;
use tracing::field::{self, Empty};

/// Around a whole call. The retry layer fills in what it does.
#[inline]
pub(crate) fn call(service: &ServiceName, operation: Option<Operation>) -> Span {
    tracing::debug_span!(
        target: "tower_mesh",
        "mesh.call",
        mesh.service = service.as_str(),
        mesh.operation = operation.map(Operation::as_str),
        mesh.attempts = 1_u32,
        mesh.retry.reason = Empty,
        mesh.retry.delay_ms = Empty,
        mesh.retry.stopped = Empty,
        mesh.outcome = Empty,
    )
}

/// Says how a call or an attempt ended.
pub(crate) fn ended(span: &Span, outcome: &'static str) {
    span.record("mesh.outcome", outcome);
}

/// Puts a span around each attempt at an endpoint, if anybody wants spans: else it is one check of a static.
#[derive(Clone)]
pub struct Attempts<S, C> {
    inner: S,
    classifier: C,
}

impl<S, C> Attempts<S, C> {
    pub(crate) fn new(inner: S, classifier: C) -> Self {
        Self { inner, classifier }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// The balancer has just noted where the call goes. None of it is read if nobody wants spans.
#[inline]
fn attempt() -> Span {
    tracing::debug_span!(
        target: "tower_mesh",
        "mesh.attempt",
        mesh.attempt = CallContext::with(|call| call.attempt()).unwrap_or(1),
        mesh.endpoint = going_to().as_ref().map(field::display),
        mesh.outcome = Empty,
    )
}

fn going_to() -> Option<EndpointId> {
    CallContext::with(|call| call.tried().keys().last().copied()).flatten().and_then(EndpointHandle::id_of)
}

impl<S, C, Req> Service<Req> for Attempts<S, C>
where
    S: Service<Req, Error = BoxError>,
    C: Classify<S::Response> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = AttemptFuture<S::Future, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let span = attempt();
        let started =
            if span.is_disabled() { None } else { CallContext::with(|call| call.started()).flatten() };
        let future = span.in_scope(|| self.inner.call(request));
        AttemptFuture { future, classifier: self.classifier.clone(), span, started }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Attempts<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").field("inner", &self.inner).finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// The response of [`Attempts`].
    pub struct AttemptFuture<F, C> {
        #[pin]
        future: F,
        classifier: C,
        // Disabled once the end is recorded.
        span: Span,
        started: Option<Tick>,
    }
    impl<F, C> PinnedDrop for AttemptFuture<F, C> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if !this.span.is_disabled() {
                let reason = this.started.map_or(DropReason::CallerGone, CallContext::drop_reason_of);
                ended(this.span, match reason {
                    DropReason::AttemptTimeout => "attempt-timeout",
                    DropReason::DeadlineExceeded => "deadline",
                    DropReason::HedgeLost => "hedge-lost",
                    _ => "caller-gone",
                });
            }
        }
    }
}

impl<F, C, Res> Future for AttemptFuture<F, C>
where
    F: Future<Output = Result<Res, BoxError>>,
    C: Classify<Res>,
{
    type Output = Result<Res, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.span.is_disabled() {
            return this.future.poll(cx);
        }
        let polled = this.span.in_scope(|| this.future.poll(cx));
        if let Poll::Ready(result) = &polled {
            let verdict = judge(this.classifier, result.as_ref().map_err(|error| &**error));
            ended(this.span, name(verdict.outcome));
            *this.span = Span::none();
        }
        polled
    }
}

impl<F, C> fmt::Debug for AttemptFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptFuture").finish_non_exhaustive()
    }
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "ok",
        Outcome::Undecided => "undecided",
        failed => FailureReason::of(failed).as_str(),
    }
}
