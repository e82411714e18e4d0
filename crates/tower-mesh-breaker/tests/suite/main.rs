//! The breaker from outside.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod inner;
mod keyed;
#[cfg(feature = "metrics")]
mod metering;
mod model;
mod outlier;
mod reload;
mod service;
mod threads;
