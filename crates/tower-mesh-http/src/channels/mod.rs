//! tonic's channels as endpoints' services.

mod connector;
mod link;
mod service;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use tonic::transport::Endpoint;
use tower_layer::Layer;
use tower_mesh_core::{Bind, EndpointHandle};

pub use link::NotConnected;
pub use service::{EndpointChannel, EndpointChannelFuture};

use crate::authority::address_of;
use crate::bearing::Bearing;
use crate::outgoing::{Outgoing, OutgoingLayer};
use link::Link;

/// Gives each endpoint a tonic [`Channel`](tonic::transport::Channel) whose connection the balancer knows of.
///
/// A channel that has no connection makes one when it is asked whether it is ready: until then it is not, and the call goes elsewhere if it can. One that cannot
/// connect refuses in readiness ([`NotConnected`]): nothing was sent, no retry is used, and no other connection is begun for a
/// [pause](Self::pause). A connection that is closed while nobody calls is noticed at once, and made again by the next call.
///
/// What goes through it: the time that is left of the call in `grpc-timeout` ([`OutgoingLayer`]), and from the second attempt on
/// `grpc-previous-rpc-attempts`. A server that answers CANCELLED at the deadline has had its timer go off first: that is an error, `tonic::TimeoutExpired`.
///
/// Endpoints' addresses are `host:port`, `http://host:port` or `https://host:port`; for the last, [`endpoint`](Self::endpoint) must set tonic's TLS. A channel has a
/// task of its own, which is tonic's, from the first call until the endpoint is gone; needs tokio's runtime when called, not when bound.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_http::Channels;
/// let channels = Channels::new()
///     .connect_timeout(Duration::from_millis(500))
///     .endpoint(|endpoint| endpoint.http2_keep_alive_interval(Duration::from_secs(10)));
/// ```
#[derive(Clone)]
pub struct Channels {
    connect_timeout: Duration,
    pause: Duration,
    endpoint: Option<Arc<Configure>>,
    bearing: Bearing,
}

type Configure = dyn Fn(Endpoint) -> Endpoint + Send + Sync;

impl Channels {
    /// With a connect timeout of 1 s and a pause of 200 ms.
    pub fn new() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            pause: Duration::from_millis(200),
            endpoint: None,
            bearing: Bearing::default(),
        }
    }

    /// How long connecting may take, name resolution included and TLS not. Default 1 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// After connecting has failed, how long no other connection is begun and calls are refused. Default 200 ms.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sets what else tonic knows of a connection: TLS, windows, keep-alive. What it sets for connecting itself has no effect. Default nothing.
    pub fn endpoint(mut self, configure: impl Fn(Endpoint) -> Endpoint + Send + Sync + 'static) -> Self {
        self.endpoint = Some(Arc::new(configure));
        self
    }

    /// Sends this token with every call that has no `authorization` in its metadata, in place of one that was given before. Default none.
    #[cfg(feature = "credentials")]
    pub fn bearing(mut self, token: crate::credentials::BearerToken) -> Self {
        self.bearing = Bearing::of(token);
        self
    }
}

impl Default for Channels {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels")
            .field("connect_timeout", &self.connect_timeout)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// An endpoint's service, as [`Channels`] makes it.
pub type GrpcEndpoint = Outgoing<EndpointChannel>;

impl Bind<()> for Channels {
    type Service = GrpcEndpoint;

    fn bind(&self, _client: &(), endpoint: &EndpointHandle) -> GrpcEndpoint {
        let channel = match address_of(endpoint) {
            Err(why) => EndpointChannel::nowhere(why),
            Ok((scheme, authority)) => {
                let scheme = scheme.unwrap_or(Scheme::HTTP);
                let port = if scheme == Scheme::HTTPS { 443 } else { 80 };
                let target = format!("{scheme}://{authority}");
                let link =
                    Link::new(endpoint.id().clone(), &authority, port, self.connect_timeout, self.pause);
                let target = Endpoint::from_shared(target).expect("a scheme and an authority are a URI");
                let target = match &self.endpoint {
                    Some(configure) => configure(target),
                    None => target,
                };
                EndpointChannel::new(link, target, self.bearing.clone())
            }
        };
        OutgoingLayer::new().layer(channel)
    }
}
