//! The mesh in front of servers that others wrote: nginx and HAProxy, and gRPC in Python.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod http;
mod process;
mod python;
