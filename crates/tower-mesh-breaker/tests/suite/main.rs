//! The breaker from outside.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod inner;
mod keyed;
mod model;
mod outlier;
mod reload;
mod service;
mod threads;
