//! Pure rules: no clock, no random source.

pub(crate) mod cadence;
