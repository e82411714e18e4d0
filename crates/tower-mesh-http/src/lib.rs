#![doc = include_str!("../README.md")]

mod authority;
mod bearing;
mod body;
#[cfg(feature = "tonic")]
mod channels;
mod classifier;
mod clock;
#[cfg(feature = "credentials")]
pub mod credentials;
mod idle;
mod incoming;
mod outgoing;
pub mod policy;
pub mod probe;
mod renewing;
mod replay;
mod replay_body;
#[cfg(feature = "reqwest")]
mod reqwest_client;
#[cfg(feature = "tls")]
pub mod tls;

pub use authority::{Authority, InvalidAddress, Rewrite, RewriteFuture};
pub use body::GuardedBody;
#[cfg(feature = "tonic")]
pub use channels::{Channels, EndpointChannel, EndpointChannelFuture, GrpcEndpoint, NotConnected};
pub use classifier::Classifier;
pub use idle::{IdleBody, IdleFuture, IdleTimedOut, IdleTimeout, IdleTimeoutLayer};
pub use incoming::{Incoming, IncomingFuture, IncomingLayer};
pub use outgoing::{NoTimeLeft, Outgoing, OutgoingFuture, OutgoingLayer};
pub use renewing::{Renewed, Renewing};
pub use replay::CopyBody;
pub use replay_body::{ReplayBody, Superseded};
#[cfg(feature = "reqwest")]
pub use reqwest_client::Reqwest;
