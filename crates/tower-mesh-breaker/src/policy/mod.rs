//! Pure rules: no clock, no random source, no lock.

pub(crate) mod machine;
pub mod outlier;
