//! Asking memory for what will soon be needed, without waiting for it.
//!
//! With thousands of endpoints what a call touches is in no nearby cache. Who knows early where it will look can have it brought while it does
//! something else. On processors for which there is no such instruction here, this is nothing.

use std::slice;

use prefetch_index::prefetch_index;

/// Asks for the line of memory in which `value` begins.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    prefetch_index(slice::from_ref(value), 0);
}

/// Asks for the line in which another value would lie, so many of their size after `value` (before it, if negative). For what lies together with it and cannot be named
/// without being read, as the counts of an [`Arc`](std::sync::Arc) before what it holds.
#[inline(always)]
pub fn prefetch_beside<T>(value: &T, distance: isize) {
    // The address wraps around; nothing is read.
    prefetch_index(slice::from_ref(value), distance as usize);
}
