//! The traits of core under users of different kinds, against real servers: a generated gRPC client, and a type of the user's own that is neither clonable nor
//! HTTP. (Hyper's client is the facade's own suite.)

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod credentials;
mod grpc;
mod grpc_server;
mod plain;
mod teller;
mod tonic_client;
