#![doc = include_str!("../README.md")]

mod availability;
pub mod backoff;
mod bind;
mod by_endpoint;
mod caller;
pub mod classify;
mod context;
mod endpoint;
pub mod error;
pub mod ewma;
mod handle;
mod interned;
mod listeners;
mod live;
mod name;
mod operation;
mod options;
pub mod prefetch;
mod priority;
pub mod probe;
mod ratio;
pub mod replay;
mod resolve;
pub mod sharded;
mod sync;
mod tick;
pub mod window;
#[cfg(feature = "serde")]
mod written;

pub use availability::{Availability, Reason};
pub use bind::{Bind, SameClient};
pub use by_endpoint::ByEndpoint;
pub use caller::Caller;
pub use classify::Classify;
pub use context::{CallContext, CallScope, DropReason, Tried};
pub use endpoint::{Endpoint, EndpointId, InvalidEndpoint};
pub use error::BoxError;
pub use handle::{CallCounts, CallEnd, DownListener, EndpointHandle, LatencyEpoch, WeakEndpoint};
pub use listeners::Listeners;
pub use live::{Live, LiveReader};
pub use name::{InvalidName, ServiceName};
pub use operation::Operation;
pub use options::CallOptions;
pub use priority::Priority;
pub use probe::Probe;
pub use ratio::{InvalidRatio, Ratio};
pub use replay::Replay;
pub use resolve::{Resolve, ResolveError, Update};
pub use sharded::Sharded;
pub use tick::Tick;
#[cfg(feature = "serde")]
pub use written::WrittenEndpoints;
