//! The service of one endpoint.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tonic::TimeoutExpired;
use tonic::transport::channel::ResponseFuture;
use tonic::transport::{Channel, Endpoint};
use tower_mesh_core::{BoxError, CallContext, Tick};
use tower_service::Service;

use super::connector::Connector;
use super::link::{Access, Connecting, Link};
use crate::authority::Invalid;
use crate::bearing::Bearing;
use crate::clock::clock;

/// gRFC A6: how many attempts there were before this one.
const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// A tonic server answers CANCELLED when the time it was given is over. Its timer and the caller's are set for the same moment, and either may be first by as much.
const GRACE: Duration = Duration::from_millis(10);

/// tonic's channel to one endpoint, ready when it is connected; made by [`Channels`](super::Channels).
///
/// In readiness it refuses with [`NotConnected`](super::NotConnected), or with [`InvalidAddress`](crate::InvalidAddress) if the endpoint's address is none.
pub struct EndpointChannel {
    shared: Arc<Shared>,
    waiting: Option<Connecting>,
    readied: Option<Channel>,
}

enum Shared {
    Nowhere(Invalid),
    To {
        link: Arc<Link>,
        target: Box<Endpoint>,
        /// Made by the first call: its worker needs tokio's runtime.
        channel: OnceLock<Channel>,
        bearing: Bearing,
    },
}

impl EndpointChannel {
    pub(super) fn new(link: Arc<Link>, target: Endpoint, bearing: Bearing) -> Self {
        Self::of(Arc::new(Shared::To { link, target: Box::new(target), channel: OnceLock::new(), bearing }))
    }

    pub(super) fn nowhere(why: Invalid) -> Self {
        Self::of(Arc::new(Shared::Nowhere(why)))
    }

    fn of(shared: Arc<Shared>) -> Self {
        Self { shared, waiting: None, readied: None }
    }
}

impl Clone for EndpointChannel {
    fn clone(&self) -> Self {
        // Readiness belongs to the service that was asked.
        Self::of(self.shared.clone())
    }
}

impl<B> Service<Request<B>> for EndpointChannel
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<tonic::body::Body>;
    type Error = BoxError;
    type Future = EndpointChannelFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let (link, target, channel) = match &*self.shared {
            Shared::Nowhere(why) => return Poll::Ready(Err(why.to_error().into())),
            Shared::To { link, target, channel, .. } => (link, target, channel),
        };
        while !link.is_open() {
            // What was ready is so no longer.
            self.readied = None;
            let waiting = match &mut self.waiting {
                Some(waiting) => waiting,
                None => match link.access() {
                    Access::Open => break,
                    Access::Wait(connecting) => self.waiting.insert(connecting),
                    Access::Refused(error) => return Poll::Ready(Err(error.into())),
                },
            };
            let connected = ready!(Pin::new(waiting).poll(cx));
            self.waiting = None;
            connected.map_err(|error| link.failure(error))?;
        }
        self.waiting = None;
        let readied = self.readied.get_or_insert_with(|| {
            channel.get_or_init(|| target.connect_with_connector_lazy(Connector(link.clone()))).clone()
        });
        readied.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> EndpointChannelFuture {
        let known = CallContext::with(|call| (call.sends(), call.deadline()));
        let (sends, deadline) = known.unwrap_or_default();
        if sends > 1 {
            request.headers_mut().insert(PREVIOUS_ATTEMPTS, HeaderValue::from(sends - 1));
        }
        if let Shared::To { bearing, .. } = &*self.shared {
            bearing.authorize(request.headers_mut());
        }
        let mut channel = self.readied.take().expect("a service is called after it was ready");
        EndpointChannelFuture { inner: channel.call(request.map(tonic::body::Body::new)), deadline }
    }
}

impl fmt::Debug for EndpointChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match &*self.shared {
            Shared::Nowhere(_) => None,
            Shared::To { target, .. } => Some(target.uri()),
        };
        f.debug_struct("EndpointChannel").field("target", &target).finish_non_exhaustive()
    }
}

pin_project! {
    /// The response of an [`EndpointChannel`].
    #[derive(Debug)]
    pub struct EndpointChannelFuture {
        #[pin]
        inner: ResponseFuture,
        deadline: Option<Tick>,
    }
}

impl Future for EndpointChannelFuture {
    type Output = Result<Response<tonic::body::Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        if response.headers().get("grpc-status").is_some_and(|code| code == "1")
            && this.deadline.is_some_and(|deadline| clock() + GRACE >= deadline)
        {
            return Poll::Ready(Err(TimeoutExpired(()).into()));
        }
        Poll::Ready(Ok(response))
    }
}
