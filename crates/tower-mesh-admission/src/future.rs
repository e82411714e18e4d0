//! The future of one call through admission.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_mesh_core::classify::{judge, settle};
use tower_mesh_core::{BoxError, CallContext, Classify};
use tower_service::Service;

use crate::error::Overloaded;
use crate::guard::AdmissionGuard;
use crate::service::clock;
use crate::waiting::Waiting;

pin_project_lite::pin_project! {
    /// The response of [`Admission`](crate::Admission). Dropping it abandons the call: while it waits for a place that place goes to another, and afterwards it counts
    /// as [`AbandonedPolicy`](tower_mesh_core::classify::AbandonedPolicy) says.
    pub struct AdmissionFuture<S, Req, C>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req, S::Future, C>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<S, Req, F, C> {
        // Polls for a place. None while it is being used.
        Waiting { waits: Option<Box<Waits<S, Req, C>>> },
        // Polls the inner service's response.
        Calling { #[pin] future: F, guard: Option<AdmissionGuard>, classifier: C },
        // Nothing was sent.
        Refused { refusal: Option<Overloaded> },
    }
}

/// What waits for a place: boxed, as it is rare.
struct Waits<S, Req, C> {
    waiting: Waiting,
    service: S,
    request: Req,
    classifier: C,
}

impl<S, Req, C> AdmissionFuture<S, Req, C>
where
    S: Service<Req>,
{
    #[inline]
    pub(crate) fn calling(future: S::Future, guard: AdmissionGuard, classifier: C) -> Self {
        Self { state: State::Calling { future, guard: Some(guard), classifier } }
    }

    #[cold]
    pub(crate) fn waiting(waiting: Waiting, service: S, request: Req, classifier: C) -> Self {
        let waits = Box::new(Waits { waiting, service, request, classifier });
        Self { state: State::Waiting { waits: Some(waits) } }
    }

    #[cold]
    pub(crate) fn refused(refusal: Overloaded) -> Self {
        Self { state: State::Refused { refusal: Some(refusal) } }
    }
}

impl<S, Req, C> Future for AdmissionFuture<S, Req, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Output = Result<C::Response<AdmissionGuard>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Waiting { waits } => {
                    let waiting = waits.as_mut().expect("a future is not polled after it is ready");
                    let place = ready!(waiting.waiting.poll(cx));
                    let Waits { mut service, request, classifier, .. } = *waits.take().expect("it was there");
                    let (shared, number) = place?.into_parts();
                    // The wait was for us; the call begins now.
                    let started = clock();
                    CallContext::restart_attempt(started);
                    let guard = AdmissionGuard::new(shared, number, started);
                    let future = service.call(request);
                    state.set(State::Calling { future, guard: Some(guard), classifier });
                }
                StateProj::Calling { future, guard, classifier } => {
                    let result = ready!(future.poll(cx)).map_err(Into::into);
                    let guard = guard.take().expect("a future is not polled after it is ready");
                    let verdict = judge(classifier, result.as_ref().map_err(|error| &**error));
                    return Poll::Ready(settle(classifier, verdict, result, guard));
                }
                StateProj::Refused { refusal } => {
                    let refusal = refusal.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Err(refusal.into()));
                }
            }
        }
    }
}

impl<S, Req, C> fmt::Debug for AdmissionFuture<S, Req, C>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionFuture").finish_non_exhaustive()
    }
}
