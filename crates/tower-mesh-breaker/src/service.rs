//! The breaker around a service.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::futures::OwnedNotified;
use tower_mesh_core::classify::{Origin, Outcome};
use tower_mesh_core::{BoxError, CallContext, Classify, Tick};
use tower_service::Service;

use crate::circuit::{Circuit, Permit};
use crate::error::CircuitOpen;
use crate::future::BreakerFuture;
use crate::guard::CircuitGuard;
use crate::policy::machine::{Admission, State};

/// Stops calling its inner service while that keeps failing. Made by a [`BreakerLayer`](crate::BreakerLayer).
///
/// *Alone* around a service it never errs in `poll_ready` for reasons of its own: while the circuit is open it says ready without asking the inner
/// service, and refuses in `call`. *Watching an endpoint* it refuses in `poll_ready`, so that the balancer above, whose request is unspent, picks another.
pub struct Breaker<S, C> {
    inner: S,
    circuit: Circuit,
    classifier: C,
    watching: bool,
    ticket: Ticket,
    /// Wakes a caller that waits for the inner service when the circuit changes. Made only when there is something to wait for.
    changed: Option<Pin<Box<OwnedNotified>>>,
}

/// What `poll_ready` has got for the call to come.
#[derive(Debug)]
enum Ticket {
    None,
    /// An admission that has nothing to give back.
    Pass(Admission),
    /// A trial call, given back when dropped.
    Trial(Permit, Admission),
    /// Alone and open: the call will be refused.
    Refused(CircuitOpen),
}

impl<S, C> Breaker<S, C> {
    pub(crate) fn new(inner: S, circuit: Circuit, classifier: C, watching: bool) -> Self {
        Self { inner, circuit, classifier, watching, ticket: Ticket::None, changed: None }
    }

    /// The service around which this stands.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service around which this stands, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service around which this stood.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// The circuit.
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Gets leave for one call, unless it is there.
    fn get_ticket(&mut self) -> Result<(), CircuitOpen> {
        match &self.ticket {
            Ticket::Pass(admission) if self.circuit.still_holds(*admission) => return Ok(()),
            Ticket::Trial(permit, _) if permit.still_holds() => return Ok(()),
            _ => {}
        }
        // What was there is void, and given back before asking anew.
        self.ticket = Ticket::None;
        let admission = self.circuit.admit(clock)?;
        self.ticket = if admission.state == State::HalfOpen {
            Ticket::Trial(Permit::of(self.circuit.clone(), admission), admission)
        } else {
            Ticket::Pass(admission)
        };
        Ok(())
    }

    /// Whether the circuit has changed since the last look; the task is woken when it does.
    #[cold]
    fn heard_change(&mut self, cx: &mut Context<'_>) -> bool {
        let fresh = self.changed.is_none();
        let changed =
            self.changed.get_or_insert_with(|| Box::pin(self.circuit.changed().clone().notified_owned()));
        if changed.as_mut().poll(cx).is_ready() {
            self.changed = None;
            return true;
        }
        // A change before the first look was not heard: look at the ticket once more.
        fresh
    }
}

impl<S: Clone, C: Clone> Clone for Breaker<S, C> {
    /// The clone shares the circuit but starts without a ticket: leave for one call is not leave for two.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.circuit.clone(), self.classifier.clone(), self.watching)
    }
}

impl<S, C, Req> Service<Req> for Breaker<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = C::Response<CircuitGuard>;
    type Error = BoxError;
    type Future = BreakerFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Err(refusal) = self.get_ticket() {
                self.changed = None;
                if self.watching {
                    return Poll::Ready(Err(refusal.into()));
                }
                self.ticket = Ticket::Refused(refusal);
                return Poll::Ready(Ok(()));
            }
            match self.inner.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    self.changed = None;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => {
                    self.changed = None;
                    self.readiness_failed();
                    return Poll::Ready(Err(error.into()));
                }
                Poll::Pending if self.heard_change(cx) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let admission = match std::mem::replace(&mut self.ticket, Ticket::None) {
            Ticket::Pass(admission) => admission,
            // The guard takes over what there is to give back.
            Ticket::Trial(mut permit, admission) => {
                permit.forget();
                admission
            }
            Ticket::Refused(refusal) => return BreakerFuture::refused(refusal),
            Ticket::None => panic!("a service must be ready before it is called: tower's Service contract"),
        };
        let started = CallContext::attempt_started(clock);
        let guard = CircuitGuard::new(self.circuit.clone(), admission, started);
        BreakerFuture::calling(self.inner.call(request), guard, self.classifier.clone())
    }
}

impl<S, C> Breaker<S, C> {
    /// The inner service will take no more calls, or not this one: as good as a failed call.
    #[cold]
    fn readiness_failed(&mut self) {
        let admission = match std::mem::replace(&mut self.ticket, Ticket::None) {
            Ticket::Pass(admission) => admission,
            Ticket::Trial(mut permit, admission) => {
                permit.forget();
                admission
            }
            Ticket::None | Ticket::Refused(_) => return,
        };
        self.circuit.release(admission, Outcome::Failure(Origin::Local), Duration::ZERO, clock());
    }
}

/// The layer's clock: tokio's, so that a paused one reaches it.
pub(crate) fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

impl<S: fmt::Debug, C> fmt::Debug for Breaker<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("inner", &self.inner)
            .field("circuit", &self.circuit)
            .finish_non_exhaustive()
    }
}
