#![doc = include_str!("../README.md")]

mod config;
#[cfg(feature = "file")]
mod file;
mod fixed;
mod policy;

mod as_discover;
mod balance;
mod choosing;
mod driver;
mod error;
mod from_discover;
mod future;
mod in_flight;
mod layer;
mod members;
mod set;
mod status;

pub use as_discover::AsDiscover;
pub use balance::Balance;
pub use config::{DiscoveryConfig, DiscoveryConfigBuilder};
pub use driver::Driver;
pub use error::{NoEndpoints, NoEndpointsReason, NotDriven, NotReady};
#[cfg(feature = "file")]
pub use file::{FileError, FileList};
pub use fixed::{FixedList, InvalidList};
pub use from_discover::FromDiscover;
pub use future::BalanceFuture;
pub use in_flight::InFlight;
pub use layer::{DiscoveryLayer, NoLayers, PerEndpoint, With};
pub use status::{DiscoveryState, DiscoveryStatus};

#[doc(hidden)]
pub use policy::{pick, retention};
