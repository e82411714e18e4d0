//! Pure rules: no clock, no random source, no lock.

pub mod disappearance;
pub mod hash;
pub(crate) mod idle;
pub mod levels;
pub mod pick;
pub mod retention;
pub mod warm;
pub mod weighted;
