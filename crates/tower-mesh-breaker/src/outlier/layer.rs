//! Counting the calls of one endpoint for its set.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tower_layer::Layer;
use tower_mesh_core::classify::{AbandonedPolicy, ByResult, Guard, Origin, Outcome, Verdict, judge, settle};
use tower_mesh_core::{BoxError, CallContext, Classify, Tick};
use tower_service::Service;

use super::member::Member;
use crate::service::clock;

/// Counts the calls of one endpoint; made by [`Outliers::watching`](super::Outliers::watching).
#[derive(Debug, Clone)]
pub struct OutlierLayer<C = ByResult> {
    member: Arc<Member>,
    classifier: C,
}

impl OutlierLayer {
    pub(super) fn new(member: Arc<Member>) -> Self {
        Self { member, classifier: ByResult }
    }
}

impl<C> OutlierLayer<C> {
    /// The same, with another judgement on what is a failure.
    pub fn classify<C2>(self, classifier: C2) -> OutlierLayer<C2> {
        OutlierLayer { member: self.member, classifier }
    }
}

impl<S, C: Clone> Layer<S> for OutlierLayer<C> {
    type Service = Outlier<S, C>;

    fn layer(&self, inner: S) -> Outlier<S, C> {
        Outlier { inner, member: self.member.clone(), classifier: self.classifier.clone() }
    }
}

/// A service whose calls are counted for its set. It refuses none: an ejected endpoint is passed by by the balancer, and a call that comes all the same is made.
///
/// Dropping the response future abandons the call; what that counts as is told at [`AbandonedPolicy`].
#[derive(Clone)]
pub struct Outlier<S, C = ByResult> {
    inner: S,
    member: Arc<Member>,
    classifier: C,
}

impl<S, C> Outlier<S, C> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, no longer counted.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, C, Req> Service<Req> for Outlier<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = C::Response<OutlierGuard>;
    type Error = BoxError;
    type Future = OutlierFuture<S::Future, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let ready = self.inner.poll_ready(cx).map_err(Into::into);
        if let Poll::Ready(Err(error)) = &ready {
            // It will take no more calls, or not this one: as good as a failed call, unless one of our layers says so.
            let ours = judge::<S::Response, _>(&ByResult, Err(&**error)).outcome;
            if ours == Outcome::Failure(Origin::Local) {
                self.member.record(ours, 0, clock());
            }
        }
        ready
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let started = CallContext::attempt_started(clock);
        let guard = OutlierGuard { member: Some(self.member.clone()), started, progressed: None };
        OutlierFuture {
            future: self.inner.call(request),
            guard: Some(guard),
            classifier: self.classifier.clone(),
        }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Outlier<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlier")
            .field("inner", &self.inner)
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// The response of an [`Outlier`] service.
    pub struct OutlierFuture<F, C> {
        #[pin]
        future: F,
        guard: Option<OutlierGuard>,
        classifier: C,
    }
}

impl<F, C, Res, E> Future for OutlierFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    C: Classify<Res>,
{
    type Output = Result<C::Response<OutlierGuard>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx)).map_err(Into::into);
        let guard = this.guard.take().expect("a future is not polled after it is ready");
        let verdict = judge(this.classifier, result.as_ref().map_err(|error| &**error));
        Poll::Ready(settle(this.classifier, verdict, result, guard))
    }
}

impl<F, C> fmt::Debug for OutlierFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutlierFuture").finish_non_exhaustive()
    }
}

/// Rides with a call to its end, the end of the response body included, and tells the set. Dropped before that, it reports an abandoned call.
#[derive(Debug)]
pub struct OutlierGuard {
    /// None once it has been told.
    member: Option<Arc<Member>>,
    started: Tick,
    /// When something last arrived, if anything did; only a streaming response tells.
    progressed: Option<Tick>,
}

impl Guard for OutlierGuard {
    fn progress(&mut self) {
        self.progressed = Some(clock());
    }

    fn finish(mut self, verdict: Verdict) {
        if let Some(member) = self.member.take() {
            let now = CallContext::attempt_ended(self.started, clock);
            member.record(verdict.outcome, now.nanos_since(self.started), now);
        }
    }
}

impl Drop for OutlierGuard {
    fn drop(&mut self) {
        let Some(member) = self.member.take() else {
            return;
        };
        let now = CallContext::attempt_ended(self.started, clock);
        let quiet = now.since(self.progressed.unwrap_or(self.started));
        let policy = AbandonedPolicy::new(Duration::from_nanos(member.stalled_ns().load(Ordering::Relaxed)));
        let outcome = policy.outcome(CallContext::drop_reason_of(self.started), quiet);
        member.record(outcome, now.nanos_since(self.started), now);
    }
}
