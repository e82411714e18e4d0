//! What checks mean and when the next is due: pure, with time and chance as arguments.

mod cadence;
mod machine;

pub use cadence::{Cadence, lengthen};
pub use machine::{HealthState, Machine, Sample, Step};
