use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_mesh_core::{BoxError, CallContext, DropReason, Tick, Tried};
use tower_service::Service;

use crate::budget::RetryPermit;

pin_project! {
    /// One hedge: made ready, and then called, in a context of its own beside that of the call.
    #[project = AttemptProj]
    pub(super) struct Attempt<S, Sent>
    where
        S: Service<Sent>,
    {
        context: CallContext,
        // The endpoints that the call knows to have been tried by this one.
        told: Tried,
        // None once it is called.
        unsent: Option<(S, Sent)>,
        ready_by: Tick,
        waited: bool,
        #[pin]
        calling: Option<S::Future>,
        _permit: RetryPermit,
    }
}

impl<S: Service<Sent>, Sent> Attempt<S, Sent> {
    pub(super) fn new(
        context: CallContext,
        service: S,
        request: Sent,
        ready_by: Tick,
        permit: RetryPermit,
    ) -> Self {
        Self {
            told: context.tried(),
            context,
            unsent: Some((service, request)),
            ready_by,
            waited: false,
            calling: None,
            _permit: permit,
        }
    }

    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Response, BoxError>>
    where
        S::Error: Into<BoxError>,
    {
        let mut this = self.project();
        if let Some((service, _)) = this.unsent {
            let Poll::Ready(ready) = this.context.lend(|| service.poll_ready(cx)) else {
                *this.waited = true;
                return Poll::Pending;
            };
            if let Err(error) = ready {
                return Poll::Ready(Err(error.into()));
            }
            if *this.waited {
                // The wait for readiness is no part of what the inner layers measure.
                this.context.next_attempt();
            }
            let calling =
                this.unsent.take().map(|(mut service, request)| this.context.lend(|| service.call(request)));
            this.calling.set(calling);
        }
        let calling = this.calling.as_mut().as_pin_mut().expect("a hedge is gone once it has ended");
        let result = ready!(this.context.lend(|| calling.poll(cx)));
        Poll::Ready(result.map_err(Into::into))
    }

    /// Until when it waits for readiness, if it does.
    pub(super) fn ready_by(&self) -> Option<Tick> {
        self.unsent.is_some().then_some(self.ready_by)
    }

    /// When it ended, if anybody read the clock then.
    pub(super) fn ended(&self) -> Option<Tick> {
        self.context.ended()
    }

    /// The endpoint it has gone to since this was last asked, if it has.
    pub(super) fn newly_tried(self: Pin<&mut Self>) -> Option<u32> {
        let this = self.project();
        let tried = this.context.tried();
        if tried == *this.told {
            return None;
        }
        *this.told = tried;
        tried.keys().last().copied()
    }

    /// Drops what is under way and tells its guards why.
    pub(super) fn end(self: Pin<&mut Self>, reason: DropReason) {
        struct Clear<'a, 'p, F>(&'a mut Pin<&'p mut Option<F>>);
        impl<F> Drop for Clear<'_, '_, F> {
            fn drop(&mut self) {
                self.0.set(None);
            }
        }
        let mut this = self.project();
        let unsent = this.unsent.take();
        this.context.drop_for(reason, (Clear(&mut this.calling), unsent));
    }
}
