#![doc = include_str!("../README.md")]

mod check;
mod config;
mod count;
mod error;
mod guard;
mod layer;
pub mod policy;
mod prober;
mod probes;
mod registry;
mod status;
mod watch;

pub use config::{HealthConfig, HealthConfigBuilder, Initial};
pub use count::{CountGuard, CountLayer, Counted, CountedFuture};
pub use error::Unhealthy;
pub use guard::{GuardLayer, Guarded, GuardedFuture};
pub use layer::HealthLayer;
pub use prober::Prober;
pub use probes::ProbeCounts;
pub use status::{EndpointHealth, Transition};
pub use watch::WatchLayer;
