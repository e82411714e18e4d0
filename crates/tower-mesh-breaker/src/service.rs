//! The breaker around a service.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::futures::OwnedNotified;
use tower_mesh_core::classify::{Origin, Outcome, Retry, Verdict};
use tower_mesh_core::error::{self, Judged};
use tower_mesh_core::{BoxError, CallContext, Classify, Tick};
use tower_service::Service;

use crate::circuit::{Circuit, Permit};
use crate::error::CircuitOpen;
use crate::future::BreakerFuture;
use crate::guard::CircuitGuard;
use crate::policy::machine::{Admission, Counted};

/// Stops calling its inner service while that keeps failing. Made by a [`BreakerLayer`](crate::BreakerLayer).
///
/// *Alone* around a service it never errs in `poll_ready` for reasons of its own: while the circuit is open it says ready without asking the inner
/// service, and refuses in `call`. *Watching an endpoint* it refuses in `poll_ready`, so that the balancer above, whose request is unspent, picks another.
#[repr(C)] // What a clone reads stands together: of thousands in a row, some lie across two lines of memory.
pub struct Breaker<S, C> {
    circuit: Circuit,
    watching: bool,
    inner: S,
    classifier: C,
    /// Leave for the call to come that has nothing to give back.
    pass: Option<Admission>,
    /// Boxed, and in one box: a balancer keeps one breaker per endpoint and clones it for each call.
    rare: Option<Box<Rare>>,
}

/// What few calls need.
#[derive(Default)]
struct Rare {
    ticket: Option<Ticket>,
    /// Wakes a caller that waits for the inner service when the circuit changes. Made only when there is something to wait for.
    changed: Option<Pin<Box<OwnedNotified>>>,
}

/// What `poll_ready` has got for the call to come, where that is more than leave to pass.
#[derive(Debug)]
enum Ticket {
    /// A trial call, given back when dropped.
    Trial(Permit),
    /// Alone and open: the call will be refused.
    Refused(CircuitOpen),
}

impl<S, C> Breaker<S, C> {
    pub(crate) fn new(inner: S, circuit: Circuit, classifier: C, watching: bool) -> Self {
        Self { inner, circuit, classifier, watching, pass: None, rare: None }
    }

    /// Asks memory for what a call through a closed circuit touches ([`tower_mesh_core::prefetch`]): for a balancer over thousands of endpoints that knows which it will look at
    /// next.
    #[inline]
    pub fn prefetch(&self) {
        self.circuit.prefetch();
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
    #[inline]
    fn get_ticket(&mut self) -> Result<(), CircuitOpen> {
        if self.pass.is_some_and(|admission| self.circuit.still_holds(admission)) {
            return Ok(());
        }
        self.pass = None;
        if let Some(rare) = &mut self.rare {
            if matches!(&rare.ticket, Some(Ticket::Trial(permit)) if permit.still_holds()) {
                return Ok(());
            }
            // Void: given back before asking anew.
            rare.ticket = None;
        }
        let admission = self.circuit.admit(clock)?;
        if admission.counted() == Counted::Trial {
            let permit = Permit::of(self.circuit.clone(), admission);
            self.rare.get_or_insert_default().ticket = Some(Ticket::Trial(permit));
        } else {
            self.pass = Some(admission);
        }
        Ok(())
    }

    /// Hands over what there is for a call: the admission, for a guard that takes over what there is to give back.
    #[inline]
    fn use_ticket(&mut self) -> Result<Admission, Option<CircuitOpen>> {
        if let Some(admission) = self.pass.take() {
            return Ok(admission);
        }
        match self.rare.as_mut().and_then(|rare| rare.ticket.take()) {
            Some(Ticket::Trial(permit)) => Ok(permit.into_admission()),
            Some(Ticket::Refused(refusal)) => Err(Some(refusal)),
            None => Err(None),
        }
    }

    /// Waits for no change any more.
    #[inline]
    fn stop_waiting(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.changed = None;
        }
    }

    /// Whether the circuit has changed since the last look; the task is woken when it does.
    #[cold]
    fn heard_change(&mut self, cx: &mut Context<'_>) -> bool {
        let rare = self.rare.get_or_insert_default();
        let fresh = rare.changed.is_none();
        let changed =
            rare.changed.get_or_insert_with(|| Box::pin(self.circuit.changed().clone().notified_owned()));
        if changed.as_mut().poll(cx).is_ready() {
            rare.changed = None;
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
                self.stop_waiting();
                if self.watching {
                    return Poll::Ready(Err(refusal.into()));
                }
                self.rare.get_or_insert_default().ticket = Some(Ticket::Refused(refusal));
                return Poll::Ready(Ok(()));
            }
            match self.inner.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    self.stop_waiting();
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => {
                    self.stop_waiting();
                    let error = error.into();
                    self.readiness_failed(&error);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending if self.heard_change(cx) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let admission = match self.use_ticket() {
            Ok(admission) => admission,
            Err(Some(refusal)) => return BreakerFuture::refused(refusal),
            Err(None) => panic!("a service must be ready before it is called: tower's Service contract"),
        };
        let started = CallContext::attempt_started(clock);
        let guard = CircuitGuard::new(self.circuit.clone(), admission, started);
        BreakerFuture::calling(self.inner.call(request), guard, self.classifier.clone())
    }
}

impl<S, C> Breaker<S, C> {
    /// The inner service will take no more calls, or not this one: as good as a failed call, unless a layer of ours refuses it, which says nothing of the service.
    #[cold]
    fn readiness_failed(&mut self, error: &BoxError) {
        if let Ok(admission) = self.use_ticket() {
            let judged = error::find::<Judged>(&**error).map(Judged::verdict);
            let refused = judged.filter(|verdict| verdict.outcome == Outcome::Refused);
            let verdict = refused.unwrap_or(Verdict::failure(Origin::Local, Retry::NotProcessed));
            self.circuit.release(admission, verdict, 0, clock());
        }
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
