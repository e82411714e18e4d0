//! The breaker from outside.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod inner;
mod outlier;
mod service;
mod threads;
