//! Telling listeners, so that none can hurt the caller.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Listener<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// Those who want to hear of every `T`: what a layer keeps behind its `on_event` or `on_transition`.
///
/// ```
/// use tower_mesh_core::Listeners;
/// let listeners = Listeners::default();
/// assert!(!listeners.any());
/// listeners.add(|news: &u32| assert_eq!(*news, 7));
/// assert_eq!(listeners.tell(&7), 0, "none of them panicked");
/// ```
pub struct Listeners<T> {
    any: AtomicBool,
    all: Mutex<Vec<Listener<T>>>,
}

impl<T> Listeners<T> {
    /// Tells `listener` of everything from now on. There is no way back: one that has lost interest does nothing.
    pub fn add(&self, listener: impl Fn(&T) + Send + Sync + 'static) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(listener));
        self.any.store(true, Ordering::Release);
    }

    /// Whether there is any: what is told need not be put together for nobody.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Tells them, under no lock: a listener may do whatever its caller may, add another listener included. One that panics keeps nothing from the others;
    /// how many did is for the caller's log.
    pub fn tell(&self, news: &T) -> usize {
        if !self.any() {
            return 0;
        }
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let panics = |listener: &Listener<T>| catch_unwind(AssertUnwindSafe(|| listener(news))).is_err();
        all.iter().filter(|listener| panics(listener)).count()
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
