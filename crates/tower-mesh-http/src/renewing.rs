use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::Request;
use tower_mesh_core::{Bind, BoxError, DownListener, EndpointHandle};
use tower_service::Service;

use crate::authority::{Authority, Rewrite, RewriteFuture};

/// Gives each endpoint a client of its own, and another when active probes have found the endpoint down, so that the idle connections to it are closed.
///
/// What is joined with it is not a client but a function that makes one. For pools that keep connections for long to endpoints behind which a machine may be
/// exchanged: what was opened before it went down is not used after it is back. Calls under way keep the client they have, and with it its pool, until they
/// end. Off unless it is used: [`Authority`] shares one client among all endpoints, whose pool forgets idle connections in its own time.
///
/// ```
/// use http::{Request, Response};
/// use tower_mesh_core::{Bind, EndpointHandle};
/// use tower_mesh_http::Renewing;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_mesh_core::BoxError> {
/// // In a program: || Client::builder(TokioExecutor::new()).build_http()
/// let make = || tower::service_fn(|request: Request<String>| async move {
///     Ok::<_, std::io::Error>(Response::new(request.uri().to_string()))
/// });
/// let endpoint = EndpointHandle::new("10.0.0.7:8080".parse()?);
/// let service = Renewing.bind(&make, &endpoint);
/// let response = tower::ServiceExt::oneshot(service, Request::get("/users").body(String::new())?).await?;
/// assert_eq!(response.into_body(), "http://10.0.0.7:8080/users");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Renewing;

impl<M, C> Bind<M> for Renewing
where
    M: Fn() -> C + Clone + Send + Sync + 'static,
    C: Clone + Send + Sync + 'static,
{
    type Service = Renewed<C>;

    fn bind(&self, make: &M, endpoint: &EndpointHandle) -> Renewed<C> {
        let current = Arc::new(ArcSwap::from_pointee(Authority.bind(&make(), endpoint)));
        let (make, of, slot) = (make.clone(), endpoint.downgrade(), current.clone());
        let renew: Arc<DownListener> = Arc::new(move || {
            if let Some(endpoint) = of.upgrade() {
                slot.store(Arc::new(Authority.bind(&make(), &endpoint)));
            }
        });
        endpoint.on_down(&renew);
        Renewed { current, renew, readied: None }
    }
}

/// A service of one endpoint whose client is exchanged when the endpoint goes down; made by [`Renewing`].
pub struct Renewed<C> {
    current: Arc<ArcSwap<Rewrite<C>>>,
    /// Held: it is told as long as any service of this endpoint is there.
    renew: Arc<DownListener>,
    /// The client of the call that is being prepared. None at rest, so that nobody who only waits keeps an old one.
    readied: Option<Rewrite<C>>,
}

impl<C> Clone for Renewed<C> {
    fn clone(&self) -> Self {
        // Readiness belongs to the service that was asked.
        Self { current: self.current.clone(), renew: self.renew.clone(), readied: None }
    }
}

impl<C, B> Service<Request<B>> for Renewed<C>
where
    C: Service<Request<B>> + Clone,
    C::Error: Into<BoxError>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = RewriteFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.readied.get_or_insert_with(|| Rewrite::clone(&self.current.load())).poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> RewriteFuture<C::Future> {
        self.readied.take().expect("a service is called after it was ready").call(request)
    }
}

impl<C> fmt::Debug for Renewed<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").field("readied", &self.readied.is_some()).finish_non_exhaustive()
    }
}
