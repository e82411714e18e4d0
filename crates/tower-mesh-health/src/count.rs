use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_mesh_core::classify::{Guard, Verdict, judge, settle};
use tower_mesh_core::{BoxError, CallEnd, Classify, EndpointHandle};
use tower_service::Service;

/// Counts the calls through a service on the record of its one target, by what `classifier` says of them: the evidence that
/// [`traffic_threshold`](crate::HealthConfigBuilder::traffic_threshold), [`no_traffic_interval`](crate::HealthConfigBuilder::no_traffic_interval) and the
/// verdict in [`status`](crate::HealthLayer::status) go by.
///
/// For a target that stands alone. Inside a balancer, which counts, each call would count twice.
///
/// ```
/// use tower::{Layer, ServiceExt};
/// use tower_mesh_core::{EndpointHandle, classify::ByResult};
/// use tower_mesh_health::CountLayer;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_mesh_core::BoxError> {
/// let database = EndpointHandle::new("db:5432".parse()?);
/// let client = tower::service_fn(|query: String| async move { Ok::<_, std::io::Error>(query) });
/// let service = CountLayer::new(&database, ByResult).layer(client);
/// service.oneshot("SELECT 1".to_owned()).await?;
/// assert_eq!(database.counts().succeeded, 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct CountLayer<C> {
    endpoint: EndpointHandle,
    classifier: C,
}

impl<C> CountLayer<C> {
    /// Counts calls to `endpoint`.
    pub fn new(endpoint: &EndpointHandle, classifier: C) -> Self {
        Self { endpoint: endpoint.clone(), classifier }
    }
}

impl<S, C: Clone> Layer<S> for CountLayer<C> {
    type Service = Counted<S, C>;

    fn layer(&self, inner: S) -> Counted<S, C> {
        Counted { inner, endpoint: self.endpoint.clone(), classifier: self.classifier.clone() }
    }
}

/// A service whose calls are counted; made by [`CountLayer`].
#[derive(Debug, Clone)]
pub struct Counted<S, C> {
    inner: S,
    endpoint: EndpointHandle,
    classifier: C,
}

impl<S, C> Counted<S, C> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, no longer counted.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, C, Req> Service<Req> for Counted<S, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Response = C::Response<CountGuard>;
    type Error = BoxError;
    type Future = CountedFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // Made before the inner call, so that one that panics or is dropped is counted out too.
        let guard = CountGuard::new(&self.endpoint);
        let future = self.inner.call(request);
        CountedFuture { future, guard: Some(guard), classifier: self.classifier.clone() }
    }
}

pin_project! {
    /// The response of a [`Counted`] service. Dropping it abandons the call, which then tells nothing of the target.
    pub struct CountedFuture<F, C> {
        #[pin]
        future: F,
        guard: Option<CountGuard>,
        classifier: C,
    }
}

impl<F, C, Res, E> Future for CountedFuture<F, C>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    C: Classify<Res>,
{
    type Output = Result<C::Response<CountGuard>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx)).map_err(Into::into);
        let guard = this.guard.take().expect("a future is not polled after it is ready");
        let verdict = judge(this.classifier, result.as_ref().map_err(|error| &**error));
        Poll::Ready(settle(this.classifier, verdict, result, guard))
    }
}

impl<F, C> fmt::Debug for CountedFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountedFuture").finish_non_exhaustive()
    }
}

/// Rides with a call to its end, the end of the response body included, and counts it out.
#[derive(Debug)]
pub struct CountGuard {
    endpoint: EndpointHandle,
    finished: bool,
}

impl CountGuard {
    fn new(endpoint: &EndpointHandle) -> Self {
        endpoint.started();
        Self { endpoint: endpoint.clone(), finished: false }
    }
}

impl Guard for CountGuard {
    fn finish(mut self, verdict: Verdict) {
        self.finished = true;
        self.endpoint.finished(CallEnd::Answered(verdict.outcome));
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.endpoint.finished(CallEnd::Abandoned);
        }
    }
}
