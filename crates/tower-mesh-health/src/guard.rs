use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_mesh_core::{BoxError, EndpointHandle, EndpointId, Reason};
use tower_service::Service;

use crate::error::Unhealthy;
use crate::registry::Registration;

/// Has one endpoint checked and keeps calls from it while it is down; made by
/// [`HealthLayer::guarding`](crate::HealthLayer::guarding).
#[derive(Debug, Clone)]
pub struct GuardLayer {
    target: Arc<Target>,
}

/// What is guarded. In this order: what the checks have set is cleared before the record goes.
#[derive(Debug)]
struct Target {
    #[expect(dead_code, reason = "held: the endpoint is checked as long as it is")]
    registration: Arc<Registration>,
    endpoint: EndpointHandle,
}

impl GuardLayer {
    pub(crate) fn new(endpoint: EndpointHandle, registration: Arc<Registration>) -> Self {
        Self { target: Arc::new(Target { registration, endpoint }) }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, target: self.target.clone(), readied: false }
    }
}

/// A service that refuses calls while its endpoint is down by its health checks.
///
/// It never errs in `poll_ready` for reasons of its own: while the endpoint is down it is ready without asking the inner service, and `call`
/// answers [`Unhealthy`]. A call for which the inner service was not readied never reaches it.
#[derive(Debug)]
pub struct Guarded<S> {
    inner: S,
    target: Arc<Target>,
    /// The inner service has said it is ready, and has not been called since.
    readied: bool,
}

impl<S: Clone> Clone for Guarded<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            target: self.target.clone(),
            // Readiness belongs to the service that was asked; the clone's inner service was not.
            readied: false,
        }
    }
}

impl<S> Guarded<S> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, no longer guarded.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn is_down(&self) -> bool {
        self.target.endpoint.availability().contains(Reason::ProbeDown)
    }
}

impl<S, Req> Service<Req> for Guarded<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = GuardedFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.is_down() {
            return Poll::Ready(Ok(()));
        }
        let ready = self.inner.poll_ready(cx).map_err(Into::into);
        self.readied = matches!(ready, Poll::Ready(Ok(())));
        ready
    }

    #[inline]
    fn call(&mut self, request: Req) -> GuardedFuture<S::Future> {
        // What was readied and then went down is refused too; the inner service stays readied for the next call.
        if !self.readied || self.is_down() {
            return GuardedFuture::Refused { endpoint: Some(self.target.endpoint.id().clone()) };
        }
        self.readied = false;
        GuardedFuture::Sent { inner: self.inner.call(request) }
    }
}

pin_project! {
    /// The answer of a [`Guarded`] service.
    #[derive(Debug)]
    #[project = GuardedProjection]
    #[must_use = "futures do nothing unless polled"]
    pub enum GuardedFuture<F> {
        /// Polls the inner service's answer.
        #[doc(hidden)]
        Sent { #[pin] inner: F },
        /// Nothing was sent.
        #[doc(hidden)]
        Refused { endpoint: Option<EndpointId> },
    }
}

impl<F, Res, E> Future for GuardedFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            GuardedProjection::Sent { inner } => inner.poll(cx).map_err(Into::into),
            GuardedProjection::Refused { endpoint } => {
                let endpoint = endpoint.take().expect("polled after it was ready");
                Poll::Ready(Err(Unhealthy::new(endpoint).into()))
            }
        }
    }
}
