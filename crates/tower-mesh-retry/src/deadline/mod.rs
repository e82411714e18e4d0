//! A bound on the whole call.

mod future;
mod layer;
mod service;
#[cfg(test)]
mod tests;

pub use future::DeadlineFuture;
pub use layer::DeadlineLayer;
pub use service::Deadline;
