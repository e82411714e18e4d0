//! Boxes that are used again.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A value in a box that goes back to its thread's shelf when it is dropped: what most futures do without need not be moved with each of them, and costs those that
/// have it no allocation.
pub(super) struct Recycled<T: 'static>(Option<Box<Option<T>>>);

/// As many boxes of one type as a thread keeps; with more in use than these, they are allocated.
const MAX: usize = 256;

/// Empty boxes of one type.
struct Shelf {
    of: TypeId,
    boxes: Vec<Box<dyn Any>>,
}

thread_local! {
    /// By type. There are as many as kinds of hedged services, which are few: looking through them is quicker than hashing.
    static SHELVES: RefCell<Vec<Shelf>> = const { RefCell::new(Vec::new()) };
}

impl<T: 'static> Recycled<T> {
    #[inline(never)]
    pub(super) fn new(value: T) -> Self {
        let kept = SHELVES.try_with(|shelves| shelf_of::<T>(&mut shelves.borrow_mut())?.boxes.pop());
        let mut empty = kept.ok().flatten().and_then(|kept| kept.downcast().ok()).unwrap_or_default();
        *empty = Some(value);
        Self(Some(empty))
    }
}

fn shelf_of<T: 'static>(shelves: &mut [Shelf]) -> Option<&mut Shelf> {
    shelves.iter_mut().find(|shelf| shelf.of == TypeId::of::<T>())
}

const FULL: &str = "a box is empty only on its shelf";

impl<T> Deref for Recycled<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().and_then(Option::as_ref).expect(FULL)
    }
}

impl<T> DerefMut for Recycled<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_deref_mut().and_then(Option::as_mut).expect(FULL)
    }
}

impl<T> Drop for Recycled<T> {
    #[inline(never)]
    fn drop(&mut self) {
        let Some(mut full) = self.0.take() else { return };
        // Before the shelves are touched: what is dropped may make calls of its own.
        *full = None;
        // Fails only while the thread is being torn down: then it is freed.
        let _ = SHELVES.try_with(|shelves| {
            let mut shelves = shelves.borrow_mut();
            match shelf_of::<T>(&mut shelves) {
                Some(shelf) if shelf.boxes.len() < MAX => shelf.boxes.push(full),
                Some(_) => {}
                None => shelves.push(Shelf { of: TypeId::of::<T>(), boxes: vec![full] }),
            }
        });
    }
}

impl<T: fmt::Debug> fmt::Debug for Recycled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_value_goes_at_once_and_the_box_is_used_again_by_its_type() {
        let inside = Arc::new(());
        let first = Recycled::new(inside.clone());
        let place: *const Arc<()> = &*first;
        drop(first);
        assert_eq!(Arc::strong_count(&inside), 1);
        let other = Recycled::new(7_u64);
        let again = Recycled::new(inside.clone());
        assert!(std::ptr::eq(place, &*again) && *other == 7);
    }

    #[test]
    fn no_more_are_kept_than_the_bound_and_one_may_end_on_another_thread() {
        let many: Vec<_> = (0..MAX + 10).map(|i| Recycled::new(i as u128)).collect();
        drop(many);
        SHELVES.with(|shelves| {
            assert_eq!(shelf_of::<u128>(&mut shelves.borrow_mut()).map(|shelf| shelf.boxes.len()), Some(MAX));
        });
        let here = Recycled::new(String::from("made here"));
        std::thread::spawn(move || assert_eq!(here.len(), 9)).join().unwrap();
    }

    /// A value whose own end makes another of its kind.
    struct Nested(u8);
    impl Drop for Nested {
        fn drop(&mut self) {
            if self.0 > 0 {
                drop(Recycled::new(Self(self.0 - 1)));
            }
        }
    }

    #[test]
    fn what_is_dropped_may_use_the_shelves_itself() {
        drop(Recycled::new(Nested(3)));
    }
}
