#![doc = include_str!("../README.md")]

mod fleet;
mod inner;
mod record;
mod resolver;
mod stepped;

pub use fleet::{Behaviour, Fleet};
pub use inner::{Inner, InnerFuture};
pub use record::Down;
pub use resolver::{ScriptedResolver, Updates};
pub use stepped::Stepped;
