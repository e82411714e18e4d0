use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::registry::Registration;

/// Has one endpoint checked; made by [`HealthLayer::watching`](crate::HealthLayer::watching).
#[derive(Debug, Clone)]
pub struct WatchLayer {
    registration: Arc<Registration>,
}

impl WatchLayer {
    pub(crate) fn new(registration: Arc<Registration>) -> Self {
        Self { registration }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = Watch<S>;

    fn layer(&self, inner: S) -> Watch<S> {
        Watch { inner, registration: self.registration.clone() }
    }
}

/// The service itself, and the wish that its endpoint be checked. Calls pass straight through; a clone costs one reference count.
#[derive(Debug, Clone)]
pub struct Watch<S> {
    inner: S,
    #[expect(dead_code, reason = "held: the endpoint is checked as long as it is")]
    registration: Arc<Registration>,
}

impl<S> Watch<S> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, no longer watched by this one.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Service<Req>, Req> Service<Req> for Watch<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> S::Future {
        self.inner.call(request)
    }
}
