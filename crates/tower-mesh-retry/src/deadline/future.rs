use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_mesh_core::{BoxError, CallScope, DropReason};

use crate::error::DeadlineExceeded;
use crate::timer::Timer;

pin_project! {
    /// A call with a deadline.
    #[derive(Debug)]
    #[project = DeadlineProj]
    pub struct DeadlineFuture<F> {
        // None once the deadline has passed.
        #[pin]
        inner: Option<F>,
        timer: Timer,
        scope: CallScope,
    }
}

impl<F> DeadlineFuture<F> {
    /// `call` makes the call; none if the deadline has passed. What it gives is built where it stays: moving a future is what a call costs most.
    #[inline(always)]
    pub(super) fn new(call: Option<impl FnOnce(&mut CallScope) -> F>, mut scope: CallScope) -> Self {
        Self { inner: call.map(|call| call(&mut scope)), timer: Timer::default(), scope }
    }
}

#[cfg(test)]
impl<F> DeadlineFuture<F> {
    pub(super) fn is_armed(&self) -> bool {
        self.timer.is_armed()
    }
}

impl<F, Res, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(DeadlineExceeded::new().into()));
        };
        let answer = this.scope.run(|| inner.poll(cx));
        let Some(call) = this.scope.own() else {
            return answer.map_err(Into::into);
        };
        if answer.is_ready() {
            call.tell_ended();
            return answer.map_err(Into::into);
        }
        if !call.take_deadline_kept()
            && let Some(deadline) = call.deadline()
            && this.timer.poll_until(deadline, cx).is_ready()
        {
            return Poll::Ready(Err(this.expire()));
        }
        call.tell_deadline_kept();
        Poll::Pending
    }
}

impl<F> DeadlineProj<'_, F> {
    /// Drops the inner future and tells its guards why.
    fn expire(&mut self) -> BoxError {
        struct Clear<'p, F>(Pin<&'p mut Option<F>>);
        impl<F> Drop for Clear<'_, F> {
            fn drop(&mut self) {
                self.0.set(None);
            }
        }
        self.scope.drop_for(DropReason::DeadlineExceeded, Clear(self.inner.as_mut()));
        DeadlineExceeded::new().into()
    }
}
