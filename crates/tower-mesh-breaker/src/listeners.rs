//! Telling listeners, so that none can hurt the caller.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Listener<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// Those who want to hear of every `T`.
pub(crate) struct Listeners<T> {
    any: AtomicBool,
    all: Mutex<Vec<Listener<T>>>,
}

impl<T> Listeners<T> {
    pub(crate) fn add(&self, listener: impl Fn(&T) + Send + Sync + 'static) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
        self.any.store(true, Ordering::Release);
    }

    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Tells them, under no lock: a listener may do whatever its caller may, add another listener included. One that panics is told on to `tracing`, and
    /// the others hear of it all the same.
    pub(crate) fn tell(&self, news: &T) {
        if !self.any() {
            return;
        }
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for listener in all {
            if catch_unwind(AssertUnwindSafe(|| listener(news))).is_err() {
                tracing::error!("a listener panicked");
            }
        }
    }
}

impl<T> Default for Listeners<T> {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), all: Mutex::default() }
    }
}

impl<T> fmt::Debug for Listeners<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").finish_non_exhaustive()
    }
}
