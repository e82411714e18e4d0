use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_mesh_core::BoxError;
use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_core::error::Judged;
use tower_service::Service;

/// Ends response bodies that give nothing for a while, with [`IdleTimedOut`]: what a deadline for the head of a response does not reach.
///
/// It stands around the client, inside the balancer and the circuits, so that these hear of it. Time runs while the reader waits for the next frame; a reader that
/// does not ask is none of the server's fault.
///
/// ```
/// use std::time::Duration;
/// use tower_layer::Layer;
/// use tower_mesh_http::IdleTimeoutLayer;
/// # let hyper_client = ();
/// let client = IdleTimeoutLayer::new(Duration::from_secs(30)).layer(hyper_client);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct IdleTimeoutLayer {
    timeout: Duration,
}

impl IdleTimeoutLayer {
    /// A layer whose responses may give nothing for as long as `timeout`, which is at least a millisecond.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout: timeout.max(Duration::from_millis(1)) }
    }
}

impl<S> Layer<S> for IdleTimeoutLayer {
    type Service = IdleTimeout<S>;

    fn layer(&self, inner: S) -> IdleTimeout<S> {
        IdleTimeout { inner, timeout: self.timeout }
    }
}

/// Made by [`IdleTimeoutLayer`].
#[derive(Debug, Clone)]
pub struct IdleTimeout<S> {
    inner: S,
    timeout: Duration,
}

impl<S, B, B2> Service<Request<B>> for IdleTimeout<S>
where
    S: Service<Request<B>, Response = Response<B2>>,
{
    type Response = Response<IdleBody<B2>>;
    type Error = S::Error;
    type Future = IdleFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        IdleFuture { inner: self.inner.call(request), timeout: self.timeout }
    }
}

pin_project! {
    /// The response of [`IdleTimeout`].
    #[derive(Debug)]
    pub struct IdleFuture<F> {
        #[pin]
        inner: F,
        timeout: Duration,
    }
}

impl<F, B, E> Future for IdleFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<IdleBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(response.map(|body| IdleBody::new(body, *this.timeout))))
    }
}

pin_project! {
    /// A body that fails if the next frame takes too long. No timer is armed while frames are there.
    #[derive(Debug)]
    pub struct IdleBody<B> {
        // None once it has failed.
        #[pin]
        body: Option<B>,
        timeout: Duration,
        waiting: bool,
        sleep: Option<Pin<Box<Sleep>>>,
    }
}

impl<B> IdleBody<B> {
    /// `body`, each frame of which may take as long as `timeout`.
    pub fn new(body: B, timeout: Duration) -> Self {
        Self { body: Some(body), timeout, waiting: false, sleep: None }
    }
}

impl<B> Body for IdleBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = body.poll_frame(cx) {
            *this.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if !std::mem::replace(this.waiting, true) {
            let at = Instant::now() + *this.timeout;
            match this.sleep {
                Some(sleep) => sleep.as_mut().reset(at),
                None => *this.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
        if let Some(sleep) = this.sleep {
            // A body that uses up every turn of its task would otherwise never time out.
            ready!(Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx));
        }
        this.body.set(None);
        Poll::Ready(Some(Err(IdleTimedOut { timeout: *this.timeout }.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response body gave nothing for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleTimedOut {
    timeout: Duration,
}

impl IdleTimedOut {
    /// How long it was waited for.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl fmt::Display for IdleTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response body gave nothing for {:?}", self.timeout)
    }
}

impl std::error::Error for IdleTimedOut {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        static JUDGED: Judged = Judged::new(Verdict::failure(Origin::Local, Retry::IfIdempotent));
        Some(&JUDGED)
    }
}
