//! The background work of a discovery layer: one explicit future that feeds every balancer made from it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Sleep;
use tower_mesh_core::{ResolveError, ServiceName, Tick, Update};

use crate::balance::clock;
use crate::members::Members;
use crate::set::{Retired, Subscriber};
use crate::status::{DiscoveryState, DiscoveryStatus};

/// The truth that all balancers of one layer share.
pub(crate) struct Source {
    pub(crate) service: ServiceName,
    max_endpoints: usize,
    known: Mutex<Known>,
    /// Told after every change: calls that wait for endpoints look again.
    pub(crate) changed: Arc<Notify>,
    /// Told when the layer and its balancers are gone: the driver ends.
    gone: Arc<Notify>,
}

struct Known {
    state: DiscoveryState,
    members: Members,
    version: u64,
    updated_at: Option<Tick>,
    last_error: Option<Arc<ResolveError>>,
    subscribers: Vec<Arc<dyn Subscriber>>,
}

impl Source {
    pub(crate) fn new(service: ServiceName, max_endpoints: usize) -> Arc<Self> {
        Arc::new(Self {
            service,
            max_endpoints,
            known: Mutex::new(Known {
                state: DiscoveryState::NotDriven,
                members: Members::default(),
                version: 0,
                updated_at: None,
                last_error: None,
                subscribers: Vec::new(),
            }),
            changed: Arc::default(),
            gone: Arc::default(),
        })
    }

    /// Adds a balancer and gives it what is known.
    pub(crate) fn subscribe(&self, subscriber: &Arc<dyn Subscriber>) {
        let (version, members, dead) = {
            let mut known = self.known();
            // A source that never changes would keep those that are gone, and what they hold, for ever.
            let (mut alive, dead): (Vec<_>, Vec<_>) =
                known.subscribers.drain(..).partition(|subscriber| subscriber.is_alive());
            alive.push(subscriber.clone());
            known.subscribers = alive;
            (known.version, known.members.clone(), dead)
        };
        // Outside the lock, as what follows: they hold the user's clients.
        drop(dead);
        // Outside the lock: this runs the user's bind. What it replaces is the empty set it was made with.
        drop(subscriber.publish(version, &members));
    }

    pub(crate) fn status(&self) -> DiscoveryStatus {
        let known = self.known();
        DiscoveryStatus {
            service: self.service.clone(),
            state: known.state,
            endpoints: known.members.as_slice().iter().map(|member| member.handle.clone()).collect(),
            updated_at: known.updated_at,
            version: known.version,
            last_error: known.last_error.clone(),
        }
    }

    pub(crate) fn state(&self) -> (DiscoveryState, Option<Arc<ResolveError>>) {
        let known = self.known();
        (known.state, known.last_error.clone())
    }

    fn set_driven(&self, driven: bool) {
        {
            let mut known = self.known();
            known.state = match (driven, known.state, known.updated_at) {
                (true, DiscoveryState::NotDriven, _) => DiscoveryState::Resolving,
                (true, state, _) => state,
                (false, _, None) => DiscoveryState::NotDriven,
                (false, _, Some(_)) => DiscoveryState::Stale,
            };
        }
        self.changed.notify_waiters();
    }

    /// Takes in what the source said; the sets that this replaced.
    fn apply(&self, item: Result<Update, ResolveError>) -> Vec<Retired> {
        let now = clock();
        // Keeps the records of endpoints that go, and what is attached to them, until the lock is released.
        let before;
        let publication = {
            let mut known = self.known();
            let known = &mut *known;
            before = known.members.clone();
            match item {
                Ok(update) => {
                    let not_found = update == Update::NotFound;
                    let change = known.members.apply(update, self.max_endpoints);
                    known.state = if not_found { DiscoveryState::NotFound } else { DiscoveryState::Current };
                    known.updated_at = Some(now);
                    known.last_error = None;
                    // The first answer is a version of its own even when it is empty.
                    if change.is_news() || known.version == 0 {
                        known.version += 1;
                    }
                    let (alive, dead) =
                        known.subscribers.drain(..).partition(|subscriber| subscriber.is_alive());
                    known.subscribers = alive;
                    Ok((change, known.version, known.members.clone(), known.subscribers.clone(), dead))
                }
                Err(error) => {
                    let answered = known.updated_at.is_some();
                    known.state = if answered { DiscoveryState::Stale } else { DiscoveryState::Failed };
                    let error = Arc::new(error);
                    known.last_error = Some(error.clone());
                    Err(error)
                }
            }
        };
        let retired = match publication {
            Ok((change, version, members, subscribers, dead)) => {
                // Holds the user's clients, whose destructors must not run under the lock.
                drop::<Vec<_>>(dead);
                let service = self.service.as_str();
                tracing::debug!(
                    service,
                    version,
                    added = change.added,
                    removed = change.removed,
                    moved = change.moved,
                    "endpoints updated"
                );
                if change.over > 0 {
                    let (over, max) = (change.over, self.max_endpoints);
                    tracing::warn!(service, over, max, "endpoints over the bound are left out");
                }
                subscribers.iter().filter_map(|subscriber| subscriber.publish(version, &members)).collect()
            }
            Err(error) => {
                tracing::warn!(service = self.service.as_str(), %error, "resolution failed; the last good endpoints stay");
                Vec::new()
            }
        };
        self.changed.notify_waiters();
        drop(before);
        retired
    }

    fn ended(&self) {
        {
            let mut known = self.known();
            known.state = match known.state {
                DiscoveryState::Resolving => DiscoveryState::Failed,
                DiscoveryState::Current => DiscoveryState::Stale,
                state => state,
            };
        }
        self.changed.notify_waiters();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // Leaves a permit if the driver is not waiting just now.
        self.gone.notify_one();
    }
}

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
            retired: Vec::new(),
            handle: DriverHandle { source: Arc::downgrade(source), driven: false },
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_attached_to_an_endpoint_that_goes_is_dropped_outside_the_lock() {
        struct Attached(Arc<Source>, Arc<AtomicBool>);
        impl Drop for Attached {
            fn drop(&mut self) {
                self.1.store(self.0.known.try_lock().is_ok(), Ordering::Relaxed);
            }
        }
        let source = Source::new("users".parse().unwrap(), 10);
        let free = Arc::new(AtomicBool::new(false));
        source.apply(Ok(Update::Reset(vec!["a:1".parse().unwrap()])));
        let attached = Arc::new(Attached(source.clone(), free.clone()));
        source.status().endpoints[0].attach(attached);
        assert!(!free.load(Ordering::Relaxed));
        source.apply(Ok(Update::Reset(Vec::new())));
        assert!(free.load(Ordering::Relaxed));
    }
}
