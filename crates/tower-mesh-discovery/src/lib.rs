#![doc = include_str!("../README.md")]

mod config;
mod fixed;
mod policy;

mod balance;
mod choosing;
mod driver;
mod error;
mod future;
mod in_flight;
mod layer;
mod members;
mod set;
mod status;

pub use balance::Balance;
pub use config::{DiscoveryConfig, DiscoveryConfigBuilder};
pub use driver::Driver;
pub use error::{NoEndpoints, NoEndpointsReason, NotDriven, NotReady};
pub use fixed::{FixedList, InvalidList};
pub use future::BalanceFuture;
pub use in_flight::InFlight;
pub use layer::{DiscoveryLayer, NoLayers, PerEndpoint, With};
pub use status::{DiscoveryState, DiscoveryStatus};

#[doc(hidden)]
pub use policy::hash as hashing;
pub use policy::hash::{combine, hash};
#[doc(hidden)]
pub use policy::{levels, pick, warm, weighted};
