//! The service around which admission stands.

use std::fmt;
use std::mem;
use std::task::{Context, Poll, ready};

use tower_mesh_core::{BoxError, CallContext, Classify, Sharded, Tick};
use tower_service::Service;

use crate::error::Overloaded;
use crate::future::AdmissionFuture;
use crate::gate::Entry;
use crate::guard::AdmissionGuard;
use crate::shared::Shared;
use crate::waiting::{Place, Waiting};

/// Admits calls to its inner service, or refuses them. Made by an [`AdmissionLayer`](crate::AdmissionLayer).
///
/// *Alone* around a service it is ready when that is; a call is admitted when it is made, waits inside its future if it has to, and is refused there. *Watching an
/// endpoint* it takes the place in `poll_ready`, on the clone made for one call, and refuses there: the request is unspent, and the balancer above picks another endpoint.
/// A clone that is not used gives the place back.
pub struct Admission<S, C> {
    inner: S,
    shared: Sharded<Shared>,
    classifier: C,
    watching: bool,
    place: Option<Place>,
    waiting: Option<Box<Waiting>>,
}

impl<S, C> Admission<S, C> {
    pub(crate) fn new(inner: S, shared: Sharded<Shared>, classifier: C, watching: bool) -> Self {
        Self { inner, shared, classifier, watching, place: None, waiting: None }
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
}

impl<S: Clone, C: Clone> Clone for Admission<S, C> {
    /// The clone shares what is counted but starts without a place: one for one call is none for two.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.shared.clone(), self.classifier.clone(), self.watching)
    }
}

impl<S, C, Req> Service<Req> for Admission<S, C>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = C::Response<AdmissionGuard>;
    type Error = BoxError;
    type Future = AdmissionFuture<S, Req, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.watching {
            ready!(poll_place(&self.shared, &mut self.place, &mut self.waiting, cx))?;
        }
        let ready = ready!(self.inner.poll_ready(cx));
        if ready.is_err() {
            self.place = None;
        }
        Poll::Ready(ready.map_err(Into::into))
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        let shared = &self.shared;
        // Watching, it has got a place, which is one of no limit's.
        let is_free = !self.watching || self.place.as_ref().is_some_and(|place| !place.is_counted());
        if is_free && shared.is_off() {
            self.place = None;
            let future = self.inner.call(request);
            return AdmissionFuture::calling(future, AdmissionGuard::idle(), self.classifier.clone());
        }
        let started = CallContext::attempt_started(clock);
        let place = match self.place.take() {
            Some(place) => place,
            None if self.watching => {
                panic!("a service must be ready before it is called: tower's Service contract")
            }
            None => {
                let priority = CallContext::priority_now();
                match shared.enter(priority, || started) {
                    Ok(Entry::Now(number)) => Place::new(shared.clone(), number),
                    Ok(Entry::Wait(key, leave)) => {
                        let waiting = Waiting::new(shared.clone(), priority, key, leave);
                        // The readied value waits with the request; a clone takes its place here.
                        let clone = self.inner.clone();
                        let inner = mem::replace(&mut self.inner, clone);
                        return AdmissionFuture::waiting(waiting, inner, request, self.classifier.clone());
                    }
                    Err(refusal) => return AdmissionFuture::refused(refusal),
                }
            }
        };
        let (shared, number) = place.into_parts();
        // Before the inner call: a panic there gives the place back.
        let guard = AdmissionGuard::new(shared, number, started);
        AdmissionFuture::calling(self.inner.call(request), guard, self.classifier.clone())
    }
}

/// Gets a place for the call to come, unless it is there.
#[inline]
fn poll_place(
    shared: &Sharded<Shared>,
    place: &mut Option<Place>,
    waiting: &mut Option<Box<Waiting>>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Overloaded>> {
    if place.is_some() {
        return Poll::Ready(Ok(()));
    }
    if waiting.is_none() {
        let priority = CallContext::priority_now();
        match shared.enter(priority, || CallContext::attempt_started(clock))? {
            Entry::Wait(key, leave) => {
                *waiting = Some(Box::new(Waiting::new(shared.clone(), priority, key, leave)));
            }
            Entry::Now(number) => {
                *place = Some(Place::new(shared.clone(), number));
                return Poll::Ready(Ok(()));
            }
        }
    }
    if let Some(waits) = waiting {
        let answer = ready!(waits.poll(cx));
        *waiting = None;
        *place = Some(answer?);
    }
    Poll::Ready(Ok(()))
}

/// The layer's clock: tokio's, so that a paused one reaches it.
pub(crate) fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

impl<S: fmt::Debug, C> fmt::Debug for Admission<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").field("inner", &self.inner).finish_non_exhaustive()
    }
}
