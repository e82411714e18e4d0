//! What checks mean, what else is known, and when the next is due: pure, with time and chance as arguments.

mod cadence;
mod evidence;
mod machine;

pub use cadence::{Cadence, lengthen};
pub use evidence::{Calls, merge, reasons};
pub use machine::{HealthState, Machine, Sample, Step};
