//! Shared ownership that threads do not fight over.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// An [`Arc`] whose reference count is split by threads: cloning and dropping on one thread touch no memory that another thread's clones
/// and drops write.
///
/// A layer clones what it shares once per call; with one count for all, that line of memory going back and forth between two cores costs more than
/// the rest of the layer. A clone made on another thread than its original was counts there from then on.
///
/// ```
/// use tower_mesh_core::Sharded;
/// let shared = Sharded::new(String::from("one value"));
/// let other = std::thread::spawn({ let clone = shared.clone(); move || clone.clone() }).join().unwrap();
/// assert_eq!(*other, *shared);
/// ```
pub struct Sharded<T>(Arc<Shard<T>>);

/// One thread's count. The alignment keeps two counts off one line, and off the pair of lines that some processors fetch together.
#[repr(align(128))]
struct Shard<T> {
    index: usize,
    common: Arc<Common<T>>,
}

struct Common<T> {
    value: T,
    shards: Box<[Mutex<Weak<Shard<T>>>]>,
}

/// Enough for as many threads; more of them share.
const MAX_SHARDS: usize = 32;

impl<T> Sharded<T> {
    /// Takes ownership of `value`.
    pub fn new(value: T) -> Self {
        let shards = (0..shard_count(MAX_SHARDS)).map(|_| Mutex::default()).collect();
        let common = Arc::new(Common { value, shards });
        Self::on(&common, own_shard(common.shards.len()))
    }

    /// A reference that does not keep the value.
    pub fn downgrade(&self) -> WeakSharded<T> {
        WeakSharded(Arc::downgrade(&self.0.common))
    }

    #[cold]
    fn on(common: &Arc<Common<T>>, index: usize) -> Self {
        let mut slot = common.shards[index].lock().unwrap_or_else(PoisonError::into_inner);
        let shard = slot.upgrade().unwrap_or_else(|| {
            let shard = Arc::new(Shard { index, common: common.clone() });
            *slot = Arc::downgrade(&shard);
            shard
        });
        Self(shard)
    }
}

impl<T> Clone for Sharded<T> {
    #[inline]
    fn clone(&self) -> Self {
        let index = own_shard(self.0.common.shards.len());
        if index == self.0.index { Self(self.0.clone()) } else { Self::on(&self.0.common, index) }
    }
}

impl<T> Deref for Sharded<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.common.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Sharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A reference to a [`Sharded`] value that does not keep it.
pub struct WeakSharded<T>(Weak<Common<T>>);

impl<T> WeakSharded<T> {
    /// The value, if anybody still keeps it.
    pub fn upgrade(&self) -> Option<Sharded<T>> {
        let common = self.0.upgrade()?;
        Some(Sharded::on(&common, own_shard(common.shards.len())))
    }

    /// Whether anybody still keeps the value.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl<T> fmt::Debug for WeakSharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakSharded").field("is_alive", &self.is_alive()).finish()
    }
}

/// How many shards to make of something that threads write: a power of two, enough for as many threads as run at a time, at most `max`.
pub fn shard_count(max: usize) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    threads.next_power_of_two().min(max)
}

/// Which of `shards`, a power of two, this thread writes. The first so many threads have one each.
#[inline]
pub fn own_shard(shards: usize) -> usize {
    debug_assert!(shards.is_power_of_two(), "shards are counted in powers of two");
    thread_number() & (shards - 1)
}

/// Numbers threads as they come.
#[inline]
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // Only a thread that is being torn down has none any more.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_lives_as_long_as_any_clone_on_any_thread_and_no_longer() {
        let inside = Arc::new(());
        let shared = Sharded::new(inside.clone());
        let weak = shared.downgrade();
        let clones: Vec<_> = (0..8)
            .map(|_| {
                let shared = shared.clone();
                std::thread::spawn(move || (0..100).map(|_| shared.clone()).collect::<Vec<_>>())
            })
            .collect();
        drop(shared);
        let clones: Vec<_> = clones.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(weak.is_alive() && weak.upgrade().is_some());
        drop(clones);
        assert!(weak.upgrade().is_none());
        assert_eq!(Arc::strong_count(&inside), 1);
    }
}
