//! Pure rules.

pub(crate) mod failures;
pub(crate) mod known;
