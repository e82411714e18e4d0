//! Where a probe connects to.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::{self, Scheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::ProbeFailure;

use super::connection::failed;
use crate::authority::parse_address;

/// A connection that a probe may speak over; what [`tls`](super::HttpProbe::tls) makes of a plain one.
pub trait Secured: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Secured for T {}

type Handshake = dyn Fn(TcpStream, String) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Secured>>> + Send>>
    + Send
    + Sync;

/// The endpoint's own `host:port`, or what is set instead.
#[derive(Clone, Default)]
pub(super) struct Target {
    host: Option<String>,
    port: Option<u16>,
    tls: Option<Arc<Handshake>>,
}

/// One place, worked out for one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Place {
    host: String,
    port: u16,
    /// For the `Host` header.
    pub(super) authority: String,
    pub(super) scheme: Scheme,
}

impl Target {
    pub(super) fn set_host(&mut self, host: String) {
        self.host = Some(host);
    }

    pub(super) fn set_port(&mut self, port: u16) {
        self.port = Some(port);
    }

    pub(super) fn set_tls<F, Fut, S>(&mut self, handshake: F)
    where
        F: Fn(TcpStream, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<S>> + Send + 'static,
        S: Secured,
    {
        self.tls = Some(Arc::new(move |stream, host| {
            let handshake = handshake(stream, host);
            Box::pin(async move { Ok(Box::new(handshake.await?) as Box<dyn Secured>) })
        }));
    }

    /// The place for `endpoint`. `default` is the port of an address without one.
    pub(super) fn of(&self, endpoint: &EndpointHandle, default: Option<u16>) -> Result<Place, ProbeFailure> {
        let endpoint = endpoint.endpoint();
        let address = endpoint.address();
        let wrong = |reason: &str| ProbeFailure::unreachable(format!("{address}: {reason}"));
        let (scheme, own) = parse_address(address).map_err(wrong)?;
        if scheme == Some(Scheme::HTTPS) && self.port.is_none() && self.tls.is_none() {
            return Err(wrong("the probe has no TLS: give it a handshake, or a plain port"));
        }
        let default = match (&self.tls, default) {
            (Some(_), Some(_)) => Some(443),
            (_, default) => default,
        };
        let port = self.port.or(own.port_u16()).or(default).ok_or_else(|| wrong("it has no port"))?;
        let (host, authority) = self.names(&own, port);
        let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Place { host, port, authority, scheme })
    }

    fn names(&self, own: &uri::Authority, port: u16) -> (String, String) {
        let host = self.host.as_deref().unwrap_or(own.host());
        let bare = host.trim_matches(['[', ']']);
        let authority = match (&self.host, self.port) {
            (None, None) => own.as_str().to_owned(),
            _ if bare.contains(':') => format!("[{bare}]:{port}"),
            _ => format!("{bare}:{port}"),
        };
        (bare.to_owned(), authority)
    }

    pub(super) async fn connect(&self, place: &Place) -> Result<Box<dyn Secured>, ProbeFailure> {
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(|e| failed(&e))?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(handshake) => handshake(stream, place.host.clone())
                .await
                .map_err(|e| ProbeFailure::unreachable(format!("TLS handshake: {e}"))),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

/// The setters that every probe has.
macro_rules! target_setters {
    () => {
        /// Asks at this port of the host instead of the endpoint's own.
        pub fn port(mut self, port: u16) -> Self {
            self.target.set_port(port);
            self
        }

        /// Asks this host instead of the endpoint's own: a name or an IP address. For something that answers in the endpoint's place; every endpoint
        /// is then asked there.
        pub fn host(mut self, host: impl Into<String>) -> Self {
            self.target.set_host(host.into());
            self
        }

        /// Speaks through what `handshake` makes of a connection to the host that it is given too: TLS by any library, with its own roots and names.
        /// Without it an endpoint whose address begins with `https://` is unreachable, but at a plain [`port`](Self::port). A handshake that fails
        /// counts as unreachable.
        pub fn tls<F, Fut, S>(mut self, handshake: F) -> Self
        where
            F: Fn(tokio::net::TcpStream, String) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = std::io::Result<S>> + Send + 'static,
            S: $crate::probe::Secured,
        {
            self.target.set_tls(handshake);
            self
        }
    };
}
pub(super) use target_setters;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(target: &Target, address: &str) -> Result<(String, u16, String), ProbeFailure> {
        let endpoint = EndpointHandle::new(address.parse().unwrap());
        target.of(&endpoint, Some(80)).map(|place| (place.host, place.port, place.authority))
    }

    #[test]
    fn the_place_is_the_endpoints_own_or_what_is_set() {
        let at = |host: &str, port, authority: &str| Ok((host.to_owned(), port, authority.to_owned()));
        let own = Target::default();
        assert_eq!(place(&own, "a:81"), at("a", 81, "a:81"));
        assert_eq!(place(&own, "http://a"), at("a", 80, "a"));
        assert_eq!(place(&own, "[::1]:9"), at("::1", 9, "[::1]:9"));
        assert!(place(&own, "https://a:443").unwrap_err().reason().contains("TLS"));
        assert!(place(&own, "/run/app.sock").is_err());
        let no_default = own.of(&EndpointHandle::new("a".parse().unwrap()), None);
        assert!(no_default.unwrap_err().reason().contains("no port"));
        let mut beside = Target::default();
        beside.set_port(9000);
        assert_eq!(place(&beside, "https://[::1]:443"), at("::1", 9000, "[::1]:9000"));
        beside.set_host("10.0.0.1".into());
        assert_eq!(place(&beside, "a:1"), at("10.0.0.1", 9000, "10.0.0.1:9000"));
        let mut secured = Target::default();
        secured.set_tls(|stream, _| async { Ok(stream) });
        assert_eq!(place(&secured, "https://a"), at("a", 443, "a"));
    }
}
