//! The future of one balanced call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_mesh_core::classify::{judge, settle};
use tower_mesh_core::{BoxError, CallScope, Classify};
use tower_service::Service;

use crate::balance::Sent;
use crate::choosing::Choosing;
use crate::in_flight::InFlight;
use crate::span::AttemptSpan;

pin_project_lite::pin_project! {
    /// The response of [`Balance`](crate::Balance). Dropping it abandons the call.
    pub struct BalanceFuture<S, Req, C>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req, S::Future>,
        classifier: C,
        scope: CallScope,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    pub(crate) enum State<S, Req, F> {
        // Polls for an endpoint that is there and ready.
        Choosing { choosing: Choosing<S, Req> },
        // Polls the endpoint's response.
        Calling { #[pin] future: F, guard: Option<InFlight>, span: AttemptSpan },
    }
}

impl<S, Req, F> State<S, Req, F> {
    pub(crate) fn choosing(choosing: Choosing<S, Req>) -> Self {
        Self::Choosing { choosing }
    }

    pub(crate) fn calling((future, guard, span): Sent<F>) -> Self {
        Self::Calling { future, guard: Some(guard), span }
    }
}

impl<S, Req, C> BalanceFuture<S, Req, C>
where
    S: Service<Req>,
{
    /// `start` begins the call. What it gives is built where it stays: moving a future is what a call costs most.
    #[inline(always)]
    pub(crate) fn new(
        start: impl FnOnce() -> State<S, Req, S::Future>,
        classifier: C,
        mut scope: CallScope,
    ) -> Self {
        Self { state: scope.run(start), classifier, scope }
    }
}

impl<S, Req, C> Future for BalanceFuture<S, Req, C>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Output = Result<C::Response<InFlight>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (state, classifier) = (this.state, &*this.classifier);
        this.scope.run(|| poll_state(state, classifier, cx))
    }
}

fn poll_state<S, Req, C>(
    mut state: Pin<&mut State<S, Req, S::Future>>,
    classifier: &C,
    cx: &mut Context<'_>,
) -> Poll<Result<C::Response<InFlight>, BoxError>>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    loop {
        match state.as_mut().project() {
            StateProj::Choosing { choosing } => {
                let sent = ready!(choosing.poll(cx))?;
                state.set(State::calling(sent));
            }
            StateProj::Calling { future, guard, span } => {
                span.enter();
                let polled = future.poll(cx);
                span.leave();
                let result = ready!(polled).map_err(Into::into);
                let guard = guard.take().expect("a future is not polled after it is ready");
                let verdict = judge(classifier, result.as_ref().map_err(|error| &**error));
                span.ended(verdict.outcome);
                return Poll::Ready(settle(classifier, verdict, result, guard));
            }
        }
    }
}

impl<S, Req, C> fmt::Debug for BalanceFuture<S, Req, C>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceFuture").finish_non_exhaustive()
    }
}
