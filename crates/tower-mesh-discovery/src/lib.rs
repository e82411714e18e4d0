#![doc = include_str!("../README.md")]

mod config;
#[cfg(feature = "file")]
mod file;
mod fixed;
mod policy;

mod ahead;
mod algorithm;
mod as_discover;
mod balance;
mod candidates;
mod choosing;
mod driver;
mod error;
mod event;
mod from_discover;
mod future;
mod hash_key;
mod in_flight;
mod layer;
mod members;
mod plan;
mod rest;
mod set;
mod source;
mod span;
mod status;

pub use algorithm::Algorithm;
pub use as_discover::AsDiscover;
pub use balance::Balance;
pub use candidates::{Candidates, Picker};
pub use config::{DiscoveryConfig, DiscoveryConfigBuilder};
pub use driver::Driver;
pub use error::{NoEndpoints, NoEndpointsReason, NotDriven, NotReady};
pub use event::{DiscoveryEvent, Membership};
#[cfg(feature = "file")]
pub use file::{FileError, FileList, FileWatch};
pub use fixed::{FixedList, InvalidList};
pub use from_discover::FromDiscover;
pub use future::BalanceFuture;
pub use hash_key::{HashKey, HashKeyFuture, HashKeyLayer};
pub use in_flight::InFlight;
pub use layer::{DiscoveryLayer, NoLayers, PerEndpoint, With};
pub use status::{DiscoveryState, DiscoveryStatus};

#[doc(hidden)]
pub use policy::hash as hashing;
pub use policy::hash::{combine, hash};
#[doc(hidden)]
pub use policy::{disappearance, levels, pick, retention, warm, weighted};
