//! Asking an endpoint whether it is well: over HTTP, by gRPC's health protocol, or by connecting.
//!
//! All of them reach the endpoint by a TCP connection of their own, at its own `host:port` or beside it (`port`, `host`), in plain text or through a TLS
//! handshake of the user's (`tls`). A check spawns nothing, and when it is over or dropped, its connection is gone. It has no time limit of its own;
//! whoever runs it sets one. A host *name* is looked up by the runtime's blocking pool, and a lookup cannot be taken back: let discovery give IP addresses.
//!
//! A check that this process could not make, because it has no file descriptors or no local ports left, is
//! [inconclusive](tower_mesh_core::probe::ProbeFailure::inconclusive).

mod connection;
mod exchange;
#[cfg(feature = "http2")]
mod grpc;
mod http;
mod target;
mod tcp;

#[cfg(feature = "http2")]
pub use self::grpc::GrpcProbe;
pub use self::http::HttpProbe;
pub use self::target::Secured;
pub use self::tcp::TcpProbe;

/// A check that sends `GET path` to the endpoint and looks at the status; see [`HttpProbe`].
///
/// What a path cannot hold (blanks, controls, other letters than ASCII) is percent-encoded, a missing slash is put in front, and what lies beyond
/// [`HttpProbe::MAX_PATH`] bytes is cut off, so that every text is a path.
///
/// ```
/// let probe = tower_mesh_http::probe::get("/healthz").expect(200..=204).body_contains("ok");
/// assert_eq!(probe.path(), "/healthz");
/// ```
pub fn get(path: impl AsRef<str>) -> HttpProbe {
    HttpProbe::new(path.as_ref())
}

/// A check that connects and hangs up; see [`TcpProbe`].
///
/// ```
/// let probe = tower_mesh_http::probe::tcp().port(5432);
/// ```
pub fn tcp() -> TcpProbe {
    TcpProbe::default()
}

/// A check by gRPC's health protocol, of `service`, or of the server as a whole if that is empty; see [`GrpcProbe`]. What lies beyond
/// [`GrpcProbe::MAX_SERVICE`] bytes is cut off.
///
/// ```
/// let asked = tower_mesh_http::probe::grpc("users.v1.Users");
/// let told = tower_mesh_http::probe::grpc("").watching();
/// # assert_eq!((asked.service(), told.service()), ("users.v1.Users", ""));
/// ```
#[cfg(feature = "http2")]
pub fn grpc(service: impl AsRef<str>) -> GrpcProbe {
    GrpcProbe::new(service.as_ref())
}
