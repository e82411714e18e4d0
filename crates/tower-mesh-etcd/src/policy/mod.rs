//! Pure rules.

pub(crate) mod known;
