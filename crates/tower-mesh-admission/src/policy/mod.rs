//! The rules, as pure functions and machines: time, chance and samples are arguments.

mod aimd;
mod gradient;
mod rejection;

pub use aimd::Aimd;
pub use gradient::{Gradient, GradientRule};
pub use rejection::{rejection_probability, with_priority};

use tower_mesh_core::Tick;

/// What a call that has ended says of the limit it was admitted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSample {
    /// When it was admitted.
    pub started: Tick,
    /// When it ended.
    pub ended: Tick,
    /// Of how many under way it was one, when it was admitted.
    pub in_flight: u32,
    /// It was lost to overload: it timed out, did not get there, or was asked to come less often.
    pub dropped: bool,
}
