//! A configuration that can be replaced while it is in use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One shared cell holding the current `T`. Writers [`reload`](Live::reload) it; each user keeps a [`LiveReader`], whose read costs
/// one atomic load while nothing has changed.
///
/// ```
/// use tower_mesh_core::Live;
/// let live = Live::new(1);
/// let mut reader = live.reader();
/// live.reload(2);
/// assert_eq!(**reader.get(), 2);
/// ```
#[derive(Debug)]
pub struct Live<T>(Arc<Cell<T>>);

#[derive(Debug)]
struct Cell<T> {
    version: AtomicU64,
    current: Mutex<Arc<T>>,
}

impl<T> Live<T> {
    /// A cell holding `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Cell { version: AtomicU64::new(0), current: Mutex::new(Arc::new(value)) }))
    }

    /// Replaces the value. Readers see it at their next read; calls under way keep what they have read.
    pub fn reload(&self, value: T) {
        let value = Arc::new(value);
        let old = {
            let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut *current, value);
            // Inside the lock, so that a reader that sees the new version finds the new value.
            self.0.version.fetch_add(1, Ordering::Release);
            old
        };
        // The old value may run a user's destructor: never under the lock.
        drop(old);
    }

    /// The value now, for a place that reads rarely.
    pub fn snapshot(&self) -> Arc<T> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A reader for one user.
    pub fn reader(&self) -> LiveReader<T> {
        // The version first: at worst the first read looks once more.
        let version = self.0.version.load(Ordering::Acquire);
        LiveReader { version, value: self.snapshot(), live: self.clone() }
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// One user's view of a [`Live`] value.
#[derive(Debug)]
pub struct LiveReader<T> {
    live: Live<T>,
    version: u64,
    value: Arc<T>,
}

impl<T> LiveReader<T> {
    /// The current value.
    #[inline]
    pub fn get(&mut self) -> &Arc<T> {
        let version = self.live.0.version.load(Ordering::Acquire);
        if version != self.version {
            self.value = self.live.snapshot();
            self.version = version;
        }
        &self.value
    }

    /// The cell this reads.
    pub fn live(&self) -> &Live<T> {
        &self.live
    }
}

impl<T> Clone for LiveReader<T> {
    fn clone(&self) -> Self {
        Self { live: self.live.clone(), version: self.version, value: self.value.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_sees_a_reload_and_old_values_are_freed() {
        let first = Arc::new(());
        let live = Live::new(first.clone());
        let (mut a, mut b) = (live.reader(), live.reader());
        live.reload(Arc::new(()));
        assert!(!Arc::ptr_eq(&**a.get(), &first) && !Arc::ptr_eq(&**b.get(), &first));
        assert_eq!(Arc::strong_count(&first), 1, "nobody holds the old value once all have read");
    }
}
