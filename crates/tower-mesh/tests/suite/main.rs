//! The mesh from outside: real servers where traffic is meant, a paused clock where waiting is.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tasks end with the runtime of their test")]

mod backend;
mod inner;

mod authorization;
mod bad_input;
mod bodies;
mod by_name;
mod credentials;
mod defaults;
mod effect;
mod errors;
mod events;
#[cfg(feature = "axum")]
mod gateway;
mod hyper_client;
mod membership;
mod operations;
mod overload;
mod overrides;
mod own;
mod probes;
mod readiness;
mod reference;
mod reload;
#[cfg(feature = "reqwest")]
mod reqwest_client;
mod shutdown;
mod sources;
mod stack;
mod start;
mod status;
mod tracing;
mod traffic;
mod yaml;
