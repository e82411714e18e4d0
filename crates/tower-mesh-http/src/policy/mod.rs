//! What answers and errors mean: pure functions, to which the time is an argument.

pub mod chain;
pub mod error;
pub mod grpc;
pub mod grpc_health;
pub mod retry_after;
pub mod status;
pub mod timeout;
