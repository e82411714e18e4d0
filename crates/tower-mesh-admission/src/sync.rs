//! Atomics and the lock: those of the standard library, or loom's where its model checker runs.

#[cfg(all(loom, test))]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
