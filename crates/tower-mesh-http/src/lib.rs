#![doc = include_str!("../README.md")]

mod authority;
mod body;
mod classifier;
pub mod policy;
pub mod probe;
mod replay;

pub use authority::{Authority, InvalidAddress, Rewrite, RewriteFuture};
pub use body::GuardedBody;
pub use classifier::Classifier;
