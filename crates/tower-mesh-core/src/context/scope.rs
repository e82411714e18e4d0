//! A layer's hold on the context of a call.

use super::{CallContext, DropReason, pool};

/// A layer's hold on the context of a call: the one that an outer layer lends, or one of its own if nobody does.
///
/// For a layer that has nothing to keep from the layers outside it. Made in `call`, kept in the response future.
///
/// ```
/// use tower_mesh_core::{CallContext, CallScope};
/// let mut scope = CallScope::join();           // nobody lends one
/// scope.run(|| assert!(CallContext::with(|_| ()).is_some()));
/// ```
#[derive(Debug)]
pub struct CallScope(Option<Box<CallContext>>);

impl CallScope {
    /// Joins the context lent now, or begins one.
    #[inline]
    pub fn join() -> Self {
        if CallContext::with(|_| ()).is_some() { Self(None) } else { Self::begin() }
    }

    /// Begins a context for a part of the call: see [`CallContext::inherit`]. For a layer that has something of its own to say, such as an earlier deadline.
    #[inline]
    pub fn begin() -> Self {
        let own = pool::take();
        own.take_over();
        Self(Some(own))
    }

    /// Runs `f` with the context lent.
    #[inline]
    pub fn run<R>(&mut self, f: impl FnOnce() -> R) -> R {
        match &mut self.0 {
            Some(own) => own.lend(f),
            None => f(),
        }
    }

    /// Reads or writes the context, outside [`run`](Self::run). None if it was an outer layer's and is lost: the call has been moved to another task.
    #[inline]
    pub fn with<R>(&mut self, f: impl FnOnce(&CallContext) -> R) -> Option<R> {
        match &mut self.0 {
            Some(own) => Some(f(own)),
            None => CallContext::with(f),
        }
    }

    /// Drops `part` while telling its guards why.
    pub fn drop_for<T>(&mut self, reason: DropReason, part: T) {
        let before = self.with(|call| call.drop_reason.replace(Some(reason))).flatten();
        self.run(|| drop(part));
        self.with(|call| call.drop_reason.set(before));
    }

    /// The context, if it is this layer's own.
    #[inline]
    pub fn own(&self) -> Option<&CallContext> {
        self.0.as_deref()
    }
}

impl Drop for CallScope {
    #[inline]
    fn drop(&mut self) {
        if let Some(own) = self.0.take() {
            pool::give_back(own);
        }
    }
}
