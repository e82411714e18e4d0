#![doc = include_str!("../README.md")]

mod config;
pub mod policy;

mod error;
mod future;
mod gate;
mod guard;
mod layer;
mod limiter;
mod service;
mod shared;
mod sync;
mod throttle;
mod waiting;

pub use config::{
    AdmissionConfig, LimitAlgorithm, LimitConfig, LimitConfigBuilder, SuccessRateConfig,
    SuccessRateConfigBuilder,
};
pub use error::{OverloadReason, Overloaded};
pub use future::AdmissionFuture;
pub use guard::AdmissionGuard;
pub use layer::AdmissionLayer;
pub use service::Admission;
pub use shared::{AdmissionSnapshot, LimitSnapshot, RefusedByPriority, SuccessRateSnapshot};
