use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderName, Request};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_mesh_core::classify::{Retry, Verdict};
use tower_mesh_core::error::Judged;
use tower_mesh_core::{BoxError, CallContext};
use tower_service::Service;

use crate::clock::clock;
use crate::policy::timeout;

/// Tells servers how much time is left for a call: `grpc-timeout` for gRPC, whole milliseconds in a header of one's choice for other HTTP.
///
/// It stands around the client, inside retry and balancing, so that each attempt tells what is left when it begins. Without a
/// deadline nothing is written; a request that gives less time already keeps that; one for which no time is left is not sent. The time the request needs to get
/// there is the [server's margin](crate::IncomingLayer::margin).
///
/// ```
/// use tower_layer::Layer;
/// use tower_mesh_http::OutgoingLayer;
/// # let hyper_client = tower::service_fn(|_: http::Request<()>| async { Ok::<_, std::io::Error>(()) });
/// let client = OutgoingLayer::new().layer(hyper_client);
/// ```
#[derive(Debug, Clone)]
pub struct OutgoingLayer {
    header: HeaderName,
}

impl OutgoingLayer {
    /// Writes [`x-mesh-timeout-ms`](timeout::TIMEOUT_MS) where it is not gRPC.
    pub fn new() -> Self {
        Self { header: timeout::TIMEOUT_MS }
    }

    /// Writes another header where it is not gRPC. Whole milliseconds.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }
}

impl Default for OutgoingLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for OutgoingLayer {
    type Service = Outgoing<S>;

    fn layer(&self, inner: S) -> Outgoing<S> {
        Outgoing { inner, header: self.header.clone() }
    }
}

/// Made by [`OutgoingLayer`].
#[derive(Debug, Clone)]
pub struct Outgoing<S> {
    inner: S,
    header: HeaderName,
}

impl<S, B> Service<Request<B>> for Outgoing<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = OutgoingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(deadline) = CallContext::with(|call| call.deadline()).flatten() {
            // The reading that the attempt began with serves here too.
            let left = deadline.since(CallContext::attempt_started(clock));
            if left.is_zero() {
                return OutgoingFuture { inner: None };
            }
            timeout::write(request.headers_mut(), &self.header, left);
        }
        OutgoingFuture { inner: Some(self.inner.call(request)) }
    }
}

pin_project! {
    /// The response of [`Outgoing`].
    #[derive(Debug)]
    pub struct OutgoingFuture<F> {
        // None if no time was left to send.
        #[pin]
        inner: Option<F>,
    }
}

impl<F, Res, E> Future for OutgoingFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().inner.as_pin_mut() {
            Some(inner) => inner.poll(cx).map_err(Into::into),
            None => Poll::Ready(Err(NoTimeLeft(()).into())),
        }
    }
}

/// The deadline of the call had passed before the request was sent. Final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTimeLeft(());

impl fmt::Display for NoTimeLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no time is left to send the request")
    }
}

impl std::error::Error for NoTimeLeft {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        static JUDGED: Judged = Judged::new(Verdict { retry: Retry::Never, ..Verdict::REFUSED });
        Some(&JUDGED)
    }
}
