//! Telling what happens, to as many as want to hear it.

mod event;
mod translate;

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future as _, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::Stream;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tower_mesh_core::ServiceName;

pub(crate) use translate::{of_discovery, of_outlier};

pub use event::{EndpointRef, Endpoints, Event, EventKind, TriedAt};

/// What a mesh tells from the moment of subscribing on, in its order: a [`Stream`]. Made by [`Mesh::events`](crate::Mesh::events).
///
/// Nobody waits for a subscriber. The latest [`CAPACITY`](Self::CAPACITY) events are kept for those who are behind; who is further behind is told how many
/// were [missed](Missed), and goes on with the oldest that is kept. The stream ends after [`EventKind::Stopped`], or with the mesh.
///
/// ```
/// # use tower_mesh::{Config, EventKind, Mesh};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let mesh = Mesh::builder().config(Config::new()).build().unwrap();
/// let mut events = mesh.events();
/// mesh.start().await.unwrap();
/// let first = events.next().await.unwrap().unwrap();
/// assert!(matches!(first.kind, EventKind::Starting));
/// # }
/// ```
pub struct Events {
    shared: Arc<Shared>,
    /// The sequence number of the next to be given.
    next: u64,
    waiting: Option<Pin<Box<OwnedNotified>>>,
}

/// A subscriber was too slow: so many events are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed(u64);

impl Missed {
    /// How many.
    pub const fn count(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missed {} events: the subscriber is too slow", self.0)
    }
}

impl std::error::Error for Missed {}

#[derive(Default)]
struct Shared {
    subscribers: AtomicUsize,
    ring: Mutex<Ring>,
    news: Arc<Notify>,
}

/// The latest events, of which the last has the number before `next`.
#[derive(Default)]
struct Ring {
    kept: VecDeque<Arc<Event>>,
    next: u64,
    ended: bool,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event after those that were given before `next`; none if there is none yet.
    fn take(&self, next: &mut u64) -> Option<Option<Result<Arc<Event>, Missed>>> {
        let ring = self.ring();
        let oldest = ring.next - ring.kept.len() as u64;
        if *next < oldest {
            let missed = oldest - *next;
            *next = oldest;
            return Some(Some(Err(Missed(missed))));
        }
        match ring.kept.get(usize::try_from(*next - oldest).unwrap_or(usize::MAX)) {
            Some(event) => {
                *next += 1;
                Some(Some(Ok(event.clone())))
            }
            None if ring.ended => Some(None),
            None => None,
        }
    }
}

impl Events {
    /// How many events are kept for those who are behind.
    pub const CAPACITY: usize = 1024;

    fn new(shared: Arc<Shared>) -> Self {
        shared.subscribers.fetch_add(1, Ordering::AcqRel);
        let next = shared.ring().next;
        Self { shared, next, waiting: None }
    }

    /// The next event, or how many were missed before it; none once there will be no more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>, Missed>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// As [`next`](Self::next), of what is there already: none if nothing is.
    pub fn try_next(&mut self) -> Option<Result<Arc<Event>, Missed>> {
        self.shared.take(&mut self.next).flatten()
    }
}

impl Stream for Events {
    type Item = Result<Arc<Event>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            // From before looking on, so that what comes between looking and waiting is heard.
            let news = this.shared.news.clone();
            let waiting = this.waiting.get_or_insert_with(|| Box::pin(news.notified_owned()));
            if let Some(taken) = this.shared.take(&mut this.next) {
                return Poll::Ready(taken);
            }
            if waiting.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.waiting = None;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut forgotten = VecDeque::new();
        if self.shared.subscribers.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut ring = self.shared.ring();
            // Somebody may have subscribed meanwhile, and be behind already.
            if self.shared.subscribers.load(Ordering::Acquire) == 0 {
                forgotten = std::mem::take(&mut ring.kept);
            }
        }
        drop(forgotten);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("next", &self.next).finish_non_exhaustive()
    }
}

/// Whoever has something to tell. Cheap to clone; the stream ends with the last clone.
#[derive(Clone, Default)]
pub(crate) struct Publisher(Arc<Source>);

#[derive(Default)]
struct Source(Arc<Shared>);

impl Drop for Source {
    fn drop(&mut self) {
        self.0.ring().ended = true;
        self.0.news.notify_waiters();
    }
}

impl Publisher {
    pub(crate) fn subscribe(&self) -> Events {
        Events::new(self.0.0.clone())
    }

    /// Tells something, of which `kind` makes an event if anybody listens: without subscribers this is one read of a number that nobody writes.
    pub(crate) fn tell<K>(&self, service: Option<&ServiceName>, kind: impl FnOnce() -> K)
    where
        K: Into<Option<EventKind>>,
    {
        let shared = &*self.0.0;
        if shared.subscribers.load(Ordering::Acquire) == 0 {
            return;
        }
        let Some(kind) = kind().into() else { return };
        let service = service.map(ToString::to_string);
        let last = matches!(kind, EventKind::Stopped { .. });
        #[expect(clippy::disallowed_methods, reason = "for people to read, not for measuring")]
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        let forgotten;
        {
            let mut ring = shared.ring();
            if ring.ended {
                return;
            }
            let sequence = ring.next;
            ring.next += 1;
            ring.ended = last;
            forgotten = if ring.kept.len() == Events::CAPACITY { ring.kept.pop_front() } else { None };
            ring.kept.push_back(Arc::new(Event { sequence, at_ms, service, kind }));
        }
        drop(forgotten);
        shared.news.notify_waiters();
    }
}

/// Takes events as they come: somebody's own log, audit trail or pager.
pub(crate) type EventSink = Box<dyn FnMut(Result<&Event, Missed>) + Send>;

/// Gives `sink` everything that `events` has. One that panics is told on to `tracing`, and hears the next all the same.
pub(crate) async fn feed(mut events: Events, mut sink: EventSink) {
    while let Some(event) = events.next().await {
        let event = event.as_deref().map_err(|missed| *missed);
        if catch_unwind(AssertUnwindSafe(|| sink(event))).is_err() {
            tracing::error!("an event sink panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn tell(publisher: &Publisher, n: usize) {
        (0..n).for_each(|_| publisher.tell(None, || EventKind::Started));
    }

    #[test]
    fn who_is_behind_is_told_how_far_and_who_is_not_notices_nothing() {
        let publisher = Publisher::default();
        let (mut slow, mut quick) = (publisher.subscribe(), publisher.subscribe());
        for n in 0..Events::CAPACITY as u64 + 5 {
            tell(&publisher, 1);
            assert_eq!(quick.try_next().unwrap().unwrap().sequence, n);
        }
        assert!(quick.try_next().is_none());
        assert_eq!(slow.try_next().unwrap().unwrap_err().count(), 5);
        assert_eq!(slow.try_next().unwrap().unwrap().sequence, 5);
        assert_eq!(std::iter::from_fn(|| slow.try_next()).count(), Events::CAPACITY - 1);
    }

    #[test]
    fn nothing_is_made_or_kept_for_nobody() {
        let publisher = Publisher::default();
        publisher.tell(None, || -> EventKind { unreachable!("nobody listens") });
        let events = publisher.subscribe();
        tell(&publisher, 3);
        assert_eq!(publisher.0.0.ring().kept.len(), 3);
        drop(events);
        assert_eq!(publisher.0.0.ring().kept.len(), 0);
        let mut later = publisher.subscribe();
        assert!(later.try_next().is_none(), "it hears what comes");
        tell(&publisher, 1);
        assert_eq!(later.try_next().unwrap().unwrap().sequence, 3);
    }

    #[test]
    fn who_waits_is_woken_and_the_end_is_told_after_the_rest() {
        let publisher = Publisher::default();
        let mut events = publisher.subscribe();
        let mut waiting = Box::pin(events.next());
        assert!(waiting.as_mut().now_or_never().is_none());
        tell(&publisher, 1);
        assert!(waiting.now_or_never().unwrap().is_some());
        tell(&publisher, 1);
        let clone = publisher.clone();
        drop(publisher);
        assert!(events.next().now_or_never().unwrap().is_some());
        assert!(events.next().now_or_never().is_none(), "a clone may still tell something");
        drop(clone);
        assert!(events.next().now_or_never().unwrap().is_none());
    }
}
