//! A future polled by hand.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is polled when the test says so, and whose wakes are counted.
///
/// What wakes itself is seen at once: [`wakes`](Self::wakes) grows though nothing has happened. What forgets a waiter is seen too: it stays at zero.
///
/// ```
/// use tower_mesh_test::Stepped;
/// let (open, door) = tokio::sync::oneshot::channel();
/// let mut waiting = Stepped::new(door);
/// assert!(waiting.poll().is_pending());
/// assert_eq!(waiting.wakes(), 0);
/// open.send(()).unwrap();
/// assert_eq!(waiting.wakes(), 1);
/// assert!(waiting.poll().is_ready());
/// ```
pub struct Stepped<F> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    waker: Waker,
}

#[derive(Default)]
struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl<F: Future> Stepped<F> {
    /// Not polled yet.
    pub fn new(future: F) -> Self {
        let wakes = Arc::new(Wakes::default());
        Self { future: Box::pin(future), waker: wakes.clone().into(), wakes }
    }

    /// Polls once.
    pub fn poll(&mut self) -> Poll<F::Output> {
        self.future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }

    /// How often it was woken so far.
    pub fn wakes(&self) -> u64 {
        self.wakes.0.load(Ordering::Acquire)
    }
}

impl<F> fmt::Debug for Stepped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepped").field("wakes", &self.wakes.0).finish_non_exhaustive()
    }
}
