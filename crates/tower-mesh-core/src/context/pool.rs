//! Contexts that no call uses, by thread: futures hold a pointer, and are moved as they grow outwards, while no call allocates.
#![expect(clippy::vec_box, reason = "the boxes are what is kept")]

use std::cell::RefCell;

use super::CallContext;

/// As many as a thread keeps; with more calls under way than these and the pool empty, one is allocated.
const MAX: usize = 1024;

thread_local! {
    static FREE: RefCell<Vec<Box<CallContext>>> = const { RefCell::new(Vec::new()) };
}

/// A context of which nothing is known yet.
#[inline]
pub(super) fn take() -> Box<CallContext> {
    match FREE.try_with(|free| free.borrow_mut().pop()) {
        Ok(Some(mut free)) => {
            *free = CallContext::default();
            free
        }
        _ => Box::default(),
    }
}

#[inline]
pub(super) fn give_back(context: Box<CallContext>) {
    // Fails only while the thread is being torn down: then it is freed.
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        if free.len() < MAX {
            free.push(context);
        }
    });
}
