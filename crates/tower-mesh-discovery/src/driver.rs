//! The background work of a discovery layer: one explicit future that feeds every balancer made from it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;
use tower_mesh_core::{Resolve, ResolveError, Update};

use crate::rest::{Rest, Step};
use crate::set::Retired;
use crate::source::Source;

pin_project_lite::pin_project! {
    /// The background work of a [`DiscoveryLayer`](crate::DiscoveryLayer): spawn it, or join it with other drivers.
    ///
    /// It listens to the source, whether or not there are calls, and feeds every balancer made from the layer. It ends when the layer, its clones and
    /// all balancers are gone; the end of the source's stream only makes the set stale. Dropped earlier, it leaves the last good endpoints
    /// in use; calls to a service that was never resolved then end with [`NotDriven`](crate::NotDriven).
    #[must_use = "nothing is resolved unless the driver is polled"]
    pub struct Driver<U> {
        #[pin]
        updates: Option<U>,
        #[pin]
        gone: OwnedNotified,
        #[pin]
        reap: Option<Sleep>,
        #[pin]
        tend: Option<Sleep>,
        rest: Option<Rest<U>>,
        retired: Vec<Retired>,
        handle: DriverHandle,
    }
}

/// How often replaced sets are looked at again while calls still hold them. A call holds one only while it picks.
const REAP_EVERY: Duration = Duration::from_millis(20);

impl<U> Driver<U> {
    pub(crate) fn new(updates: U, source: &Arc<Source>) -> Self {
        Self {
            updates: Some(updates),
            gone: source.gone.clone().notified_owned(),
            reap: None,
            tend: None,
            rest: None,
            retired: Vec::new(),
            handle: DriverHandle { source: Arc::downgrade(source), driven: false },
        }
    }
}

impl<U: 'static> Driver<U> {
    /// Lets the service rest: after `after` without calls, noticed up to a quarter of it late, or when [`DiscoveryLayer::rest`](crate::DiscoveryLayer::rest) says so, the stream of
    /// updates is dropped and the last good set kept. A call that comes then uses that set at once and pays nothing for it; within a second it is noticed, and `resolver`, the one that the layer was made
    /// with, is asked again. A call that finds no endpoint in that set wakes it at once, and waits for the answer if there are none at all. `after`: `None` is by
    /// [`rest`](crate::DiscoveryLayer::rest) alone. Default: it never rests.
    ///
    /// What waits to be removed stays while it rests. Time of resting does not count for [`max_stale`](crate::DiscoveryConfig::max_stale), which begins anew with asking; if the source was failing
    /// when it was put to rest, it goes on.
    pub fn resting<R>(mut self, resolver: R, after: Option<Duration>) -> Self
    where
        R: Resolve<Updates = U>,
    {
        if let Some(source) = self.handle.source.upgrade() {
            let service = source.service.clone();
            let again = Box::new(move || resolver.resolve(&service));
            self.rest = Some(Rest::new(again, after, source.asked()));
            source.asked().possible.store(true, std::sync::atomic::Ordering::Release);
        }
        self
    }
}

impl<U> Future for Driver<U>
where
    U: Stream<Item = Result<Update, ResolveError>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.handle.mark_driven();
        if let Some(rest) = this.rest {
            let Some(source) = this.handle.source.upgrade() else {
                return Poll::Ready(());
            };
            while let Some(step) = rest.poll(&source, cx) {
                match step {
                    Step::Rest => {
                        this.updates.set(None);
                        source.rests();
                    }
                    Step::Listen(updates) => {
                        source.woken();
                        this.updates.set(Some(updates));
                    }
                }
            }
        }
        while let Some(updates) = this.updates.as_mut().as_pin_mut() {
            let Poll::Ready(item) = updates.poll_next(cx) else {
                break;
            };
            let Some(source) = this.handle.source.upgrade() else {
                return Poll::Ready(());
            };
            match item {
                Some(item) => this.retired.extend(source.apply(item)),
                None => {
                    source.ended();
                    this.updates.set(None);
                }
            }
        }
        let Some(source) = this.handle.source.upgrade() else {
            return Poll::Ready(());
        };
        loop {
            if this.tend.as_mut().as_pin_mut().is_some_and(|tend| tend.poll(cx).is_ready()) {
                this.tend.set(None);
                this.retired.extend(source.tend());
            }
            let Some(wait) = source.wait() else {
                this.tend.set(None);
                break;
            };
            let at = tokio::time::Instant::now() + wait;
            // One that is set for earlier stays: news of the source, however frequent, put nothing off.
            if this.tend.as_ref().as_pin_ref().is_some_and(|tend| tend.deadline() <= at) {
                break;
            }
            this.tend.set(Some(tokio::time::sleep_until(at)));
        }
        drop(source);
        // A set still held by a call that is picking right now is kept here until it is not: then dropping it is ours to do.
        loop {
            this.retired.retain(|set| Arc::strong_count(set) > 1);
            if this.retired.is_empty() {
                this.reap.set(None);
                return Poll::Pending;
            }
            if this.reap.is_none() {
                this.reap.set(Some(tokio::time::sleep(REAP_EVERY)));
            }
            if let Some(reap) = this.reap.as_mut().as_pin_mut() {
                ready!(reap.poll(cx));
            }
            this.reap.set(None);
        }
    }
}

impl<U> fmt::Debug for Driver<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("retired", &self.retired.len()).finish_non_exhaustive()
    }
}

/// Tells the source whether its driver runs, the end of that included.
struct DriverHandle {
    source: Weak<Source>,
    driven: bool,
}

impl DriverHandle {
    fn mark_driven(&mut self) {
        if !self.driven {
            self.driven = true;
            if let Some(source) = self.source.upgrade() {
                source.set_driven(true);
            }
        }
    }
}

impl Drop for DriverHandle {
    fn drop(&mut self) {
        if let Some(source) = self.source.upgrade() {
            source.set_driven(false);
        }
    }
}
