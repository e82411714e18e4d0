//! The mesh from outside: real servers where traffic is meant, a paused clock where waiting is.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tasks end with the runtime of their test")]

mod backend;
mod inner;

mod authorization;
mod bad_input;
mod by_name;
mod defaults;
mod effect;
mod errors;
mod membership;
mod operations;
mod overload;
mod overrides;
mod probes;
mod readiness;
mod reference;
mod reload;
mod shutdown;
mod sources;
mod stack;
mod start;
mod status;
mod traffic;
