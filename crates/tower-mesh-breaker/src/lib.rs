#![doc = include_str!("../README.md")]

mod config;
pub mod outlier;
mod policy;

mod circuit;
mod error;
mod future;
mod guard;
mod keyed;
mod layer;
mod metering;
mod registry;
mod service;
mod sync;

pub use circuit::{Circuit, CircuitEvent, CircuitSnapshot, Permit};
pub use config::{BreakerConfig, BreakerConfigBuilder, OpenDelay, Origins, WindowKind};
pub use error::CircuitOpen;
pub use future::BreakerFuture;
pub use guard::CircuitGuard;
pub use keyed::{KeyedBreaker, KeyedBreakerLayer};
pub use layer::BreakerLayer;
pub use policy::machine::{State, Transition, TripReason};
pub use registry::Breakers;
pub use service::Breaker;
