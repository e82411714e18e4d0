//! Atomics: those of the standard library, or loom's where its model checker runs.

#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic;
#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::atomic;

/// Those of statics, which are always the standard library's: the model checker has none.
pub(crate) use std::sync::atomic as statics;
