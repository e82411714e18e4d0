#![doc = include_str!("../README.md")]

mod config;
pub mod outlier;
mod policy;

mod circuit;
mod error;
mod future;
mod guard;
mod layer;
mod listeners;
mod service;

pub use circuit::{Circuit, CircuitSnapshot, Permit};
pub use config::{BreakerConfig, BreakerConfigBuilder, WindowKind};
pub use error::CircuitOpen;
pub use future::BreakerFuture;
pub use guard::CircuitGuard;
pub use layer::BreakerLayer;
pub use policy::machine::{State, Transition, TripReason};
pub use service::Breaker;
