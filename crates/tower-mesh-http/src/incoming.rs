use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_mesh_core::CallContext;
use tower_service::Service;

use crate::clock::clock;
use crate::policy::chain::RETRIED;
use crate::policy::timeout;

/// Around a server's handlers (axum, tonic, hyper): takes the time that the caller gives over to the calls that the handler makes, and tells the caller if
/// one of them was tried as often as it may be, in vain.
///
/// The time is that of `grpc-timeout` for gRPC, whole milliseconds of a header for other HTTP, at most [`max_timeout`](Self::max_timeout) and less the
/// [`margin`](Self::margin). It bounds the handler's calls, not the handler; a handler of which no time is left runs, and its calls are refused. What the handler
/// spawns, and what its response body does, is not reached: the [`CallContext`] is lent while the handler's future is polled.
///
/// A response after a call given up in vain carries [`x-mesh-retried`](RETRIED), which the callers' [`Classifier`](crate::Classifier) reads if the response is a
/// failure: at each hop of a chain attempts would multiply.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_http::IncomingLayer;
/// # async fn handler() {}
/// let app: axum::Router = axum::Router::new()
///     .route("/", axum::routing::get(handler))
///     .layer(IncomingLayer::new().margin(Duration::from_millis(20)));
/// ```
#[derive(Debug, Clone)]
pub struct IncomingLayer(Settings);

#[derive(Debug, Clone)]
struct Settings {
    header: HeaderName,
    margin: Duration,
    max_timeout: Duration,
    marks: bool,
}

impl IncomingLayer {
    /// Reads [`x-mesh-timeout-ms`](timeout::TIMEOUT_MS) where it is not gRPC, with a margin of 10 ms and at most 300 s.
    pub fn new() -> Self {
        Self(Settings {
            header: timeout::TIMEOUT_MS,
            margin: Duration::from_millis(10),
            max_timeout: Duration::from_secs(300),
            marks: true,
        })
    }

    /// Reads another header where it is not gRPC. Whole milliseconds.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.0.header = name;
        self
    }

    /// What the request took to get here and the response takes to get back, for which the caller's time is shortened; at most to the half. Default 10 ms.
    pub fn margin(mut self, margin: Duration) -> Self {
        self.0.margin = margin;
        self
    }

    /// The longest time that a caller can give; more is taken for this. Default 300 s.
    pub fn max_timeout(mut self, timeout: Duration) -> Self {
        self.0.max_timeout = timeout;
        self
    }

    /// Whether responses say that a call was given up in vain. Default true.
    pub fn marks(mut self, marks: bool) -> Self {
        self.0.marks = marks;
        self
    }
}

impl Default for IncomingLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for IncomingLayer {
    type Service = Incoming<S>;

    fn layer(&self, inner: S) -> Incoming<S> {
        Incoming { inner, settings: self.0.clone() }
    }
}

/// Made by [`IncomingLayer`].
#[derive(Debug, Clone)]
pub struct Incoming<S> {
    inner: S,
    settings: Settings,
}

impl<S, B, B2> Service<Request<B>> for Incoming<S>
where
    S: Service<Request<B>, Response = Response<B2>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = IncomingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Settings { header, margin, max_timeout, marks } = &self.settings;
        let mut work = CallContext::around_calls();
        if let Some(timeout) = timeout::of_request(request.headers(), header) {
            let timeout = timeout.min(*max_timeout);
            work = work.with_deadline(clock() + (timeout - (*margin).min(timeout / 2)));
        }
        let inner = work.lend(|| self.inner.call(request));
        IncomingFuture { inner, work, marks: *marks }
    }
}

pin_project! {
    /// The response of [`Incoming`].
    #[derive(Debug)]
    pub struct IncomingFuture<F> {
        #[pin]
        inner: F,
        work: CallContext,
        marks: bool,
    }
}

impl<F, B, E> Future for IncomingFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.work.lend(|| this.inner.poll(cx)));
        if let Ok(response) = &mut result
            && *this.marks
            && this.work.gave_up()
        {
            response.headers_mut().insert(RETRIED, HeaderValue::from_static("1"));
        }
        Poll::Ready(result)
    }
}
