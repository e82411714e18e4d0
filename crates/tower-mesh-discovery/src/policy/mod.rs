//! Pure rules: no clock, no random source, no lock.

pub mod pick;
pub mod retention;
