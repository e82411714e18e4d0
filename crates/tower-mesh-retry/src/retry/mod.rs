//! Trying again.

pub(crate) mod future;
mod layer;
mod service;
#[cfg(test)]
mod tests;

pub use future::RetryFuture;
pub use layer::RetryLayer;
pub use service::Retry;
