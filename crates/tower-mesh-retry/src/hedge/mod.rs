//! Asking again before the first has answered.

mod attempt;
mod future;
mod layer;
mod recycled;
mod service;
#[cfg(test)]
mod tests;

pub use future::HedgeFuture;
pub use layer::HedgeLayer;
pub use service::Hedge;
