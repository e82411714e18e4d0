//! The future of one call through a breaker.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_mesh_core::classify::{judge, settle};
use tower_mesh_core::{BoxError, Classify};

use crate::error::CircuitOpen;
use crate::guard::CircuitGuard;

pin_project_lite::pin_project! {
    /// The response of [`Breaker`](crate::Breaker). Dropping it abandons the call; what that counts as is told at
    /// [`AbandonedPolicy`](tower_mesh_core::classify::AbandonedPolicy).
    pub struct BreakerFuture<F, C> {
        #[pin]
        state: FutureState<F, C>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum FutureState<F, C> {
        // Polls the inner service's response.
        Calling { #[pin] future: F, guard: Option<CircuitGuard>, classifier: C },
        // Nothing was sent.
        Refused { refusal: Option<CircuitOpen> },
    }
}

impl<F, C> BreakerFuture<F, C> {
    pub(crate) fn calling(future: F, guard: CircuitGuard, classifier: C) -> Self {
        Self { state: FutureState::Calling { future, guard: Some(guard), classifier } }
    }

    pub(crate) fn refused(refusal: CircuitOpen) -> Self {
        Self { state: FutureState::Refused { refusal: Some(refusal) } }
    }
}

impl<F, C, Res, E> Future for BreakerFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    C: Classify<Res>,
{
    type Output = Result<C::Response<CircuitGuard>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling { future, guard, classifier } => {
                let result = ready!(future.poll(cx)).map_err(Into::into);
                let guard = guard.take().expect("a future is not polled after it is ready");
                let verdict = judge(classifier, result.as_ref().map_err(|error| &**error));
                Poll::Ready(settle(classifier, verdict, result, guard))
            }
            StateProj::Refused { refusal } => {
                Poll::Ready(Err(refusal.take().expect("a future is not polled after it is ready").into()))
            }
        }
    }
}

impl<F, C> fmt::Debug for BreakerFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerFuture").finish_non_exhaustive()
    }
}
