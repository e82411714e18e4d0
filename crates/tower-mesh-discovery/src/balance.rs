//! The service that sends each call to one of the endpoints that exist now.

use std::fmt;
use std::task::{Context, Poll, Waker};

use tower_mesh_core::ewma::Decay;
use tower_mesh_core::{BoxError, CallContext, CallScope, Classify, Sharded, Tick, Tried};
use tower_service::Service;

use crate::candidates::Avoid;
use crate::choosing::Choosing;
use crate::future::{BalanceFuture, State};
use crate::in_flight::InFlight;
use crate::members::Member;
use crate::set::{Set, Shared};
use crate::span::AttemptSpan;

/// Spreads calls over the endpoints of one service, by default by the power of two choices on latency and calls in flight.
///
/// Made by a [`DiscoveryLayer`](crate::DiscoveryLayer). Clones are cheap and share everything. It is always ready: a call picks an endpoint first and then
/// waits for that one. Dropping the response future abandons the call; what that means for the endpoint is told at
/// [`AbandonedPolicy`](tower_mesh_core::classify::AbandonedPolicy).
pub struct Balance<S, C> {
    shared: Sharded<Shared<S>>,
    classifier: C,
}

impl<S, C> Balance<S, C> {
    pub(crate) fn new(shared: Sharded<Shared<S>>, classifier: C) -> Self {
        Self { shared, classifier }
    }

    /// What discovery knows.
    pub fn status(&self) -> crate::DiscoveryStatus {
        self.shared.source.status()
    }
}

impl<S, C: Clone> Clone for Balance<S, C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), classifier: self.classifier.clone() }
    }
}

impl<S, C> fmt::Debug for Balance<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("service", &self.shared.source.service).finish_non_exhaustive()
    }
}

impl<S, C, Req> Service<Req> for Balance<S, C>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = C::Response<InFlight>;
    type Error = BoxError;
    type Future = BalanceFuture<S, Req, C>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Readiness is that of the endpoint picked, and the pick needs the call: see `call`.
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        BalanceFuture::new(|| self.start(request), self.classifier.clone(), CallScope::join())
    }
}

impl<S, C> Balance<S, C> {
    /// The usual case: an endpoint is picked and ready at once, and the call is made without waiting or allocating.
    fn start<Req>(&self, request: Req) -> State<S, Req, S::Future>
    where
        S: Service<Req> + Clone,
        S::Error: Into<BoxError>,
    {
        let (now, tried) = CallContext::with(|call| (call.start(clock), call.tried()))
            .unwrap_or_else(|| (clock(), Tried::default()));
        let set = self.shared.set.load();
        set.prefetch(self.shared.prefetch);
        let Some(pick) = set.pick(now, self.shared.rules.decay, tried, &Avoid::default()) else {
            return State::choosing(Choosing::new(self.shared.clone(), request, None));
        };
        let member = &set.members.as_slice()[pick];
        let mut service = set.services[pick].clone();
        // A service that is not ready yet keeps the waker of its latest poll, so asking with one that wakes nobody loses nothing: it is polled
        // again, with the task's own, as soon as the future is.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => State::calling(send(&self.shared, member, &mut service, request, now)),
            Poll::Ready(Err(error)) => {
                let mut choosing = Choosing::new(self.shared.clone(), request, None);
                choosing.refused(member.key, error.into());
                State::choosing(choosing)
            }
            Poll::Pending => {
                State::choosing(Choosing::new(self.shared.clone(), request, Some((member.clone(), service))))
            }
        }
    }
}

/// The layers' clock: tokio's, so that a paused one reaches every layer.
pub(crate) fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

/// A call under way, who counts it, and its span.
pub(crate) type Sent<F> = (F, InFlight, AttemptSpan);

/// Makes the call on a service that has said it is ready.
#[inline(always)]
pub(crate) fn send<S, Req>(
    shared: &Shared<S>,
    member: &Member,
    service: &mut S,
    request: Req,
    now: Tick,
) -> Sent<S::Future>
where
    S: Service<Req>,
{
    CallContext::with(|call| call.add_tried(member.key));
    let guard = InFlight::new(member.handle.clone(), now, shared.rules);
    let span = AttemptSpan::new(&member.handle, now);
    span.enter();
    let future = service.call(request);
    span.leave();
    (future, guard, span)
}

impl<S> Set<S> {
    /// The place of the endpoint for a call; see [`Plan::pick`](crate::plan::Plan::pick).
    #[inline]
    pub(crate) fn pick(&self, now: Tick, decay: Decay, tried: Tried, avoid: &Avoid) -> Option<usize> {
        self.plan.pick(self.members.as_slice(), now, decay, tried, avoid)
    }
}
