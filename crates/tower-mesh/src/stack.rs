//! Finished layers in the order in which they belong.

use std::sync::Arc;

use tower_layer::{Identity, Layer};
use tower_mesh_admission::AdmissionLayer;
use tower_mesh_breaker::{Breaker, BreakerLayer};
use tower_mesh_core::{Bind, EndpointHandle};
use tower_mesh_discovery::{Balance, DiscoveryLayer, PerEndpoint};
use tower_mesh_health::HealthLayer;
use tower_mesh_retry::{DeadlineLayer, HedgeLayer, RetryLayer};

/// Layers without configuration, names or lifecycle: given in any order, they stand as they must, and each at most once.
///
/// ```text
/// deadline > admission > retry > hedge > discovery > health > breaker > the user's own > client      with discovery: the last four around each endpoint
/// deadline > admission > retry > hedge > breaker > client                                            without
/// ```
///
/// It is a [`Layer`], and [`service`](Self::service) applies it; for any request type. What does not fit is said by the compiler: a layer given twice has no method
/// to give it by, and health without discovery is no layer. The drivers of discovery and health are whoever's made them.
///
/// A hedge beside a retry leaves it to the retry to count calls for the budget. One [`RetryBudget`](tower_mesh_retry::RetryBudget) given to both bounds both.
///
/// ```
/// use tower::service_fn;
/// use tower_mesh::Stack;
/// use tower_mesh::breaker::{BreakerConfig, BreakerLayer};
/// use tower_mesh::core::classify::ByResult;
/// use tower_mesh::core::replay::Idempotent;
/// use tower_mesh::core::{BoxError, EndpointHandle};
/// use tower_mesh::discovery::{DiscoveryLayer, FixedList};
/// use tower_mesh::retry::{DeadlineConfig, DeadlineLayer, RetryConfig, RetryLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let list = FixedList::new(["10.0.0.1:5432".parse()?, "10.0.0.2:5432".parse()?])?;
/// let discovery = DiscoveryLayer::spawn(&list, "database".parse()?)
///     .bind(|_: &(), endpoint: &EndpointHandle| {
///         let address = endpoint.endpoint().address().to_owned();
///         service_fn(move |query: String| std::future::ready(Ok::<_, BoxError>(format!("{query} at {address}"))))
///     });
/// let database = Stack::builder()
///     .breaker(BreakerLayer::new(BreakerConfig::default(), ByResult))
///     .discovery(discovery)
///     .retry(RetryLayer::new(RetryConfig::default(), ByResult).replay(Idempotent))
///     .deadline(DeadlineLayer::new(DeadlineConfig::default()))
///     .service(());
/// let answer = tower::ServiceExt::oneshot(database, "SELECT 1".to_owned()).await?;
/// assert!(answer.starts_with("SELECT 1 at 10.0.0."));
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail
/// # use tower_mesh::Stack;
/// # use tower_mesh::retry::{DeadlineConfig, DeadlineLayer};
/// let deadline = DeadlineLayer::new(DeadlineConfig::default());
/// Stack::builder().deadline(deadline.clone()).deadline(deadline);   // no such method: there is one already
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "it becomes a service by `service` or as a layer"]
pub struct Stack<
    Dl = Identity,
    Ad = Identity,
    Rt = Identity,
    Hg = Identity,
    Br = Identity,
    Dc = Identity,
    He = Identity,
> {
    deadline: Dl,
    admission: Ad,
    retry: Rt,
    hedge: Hg,
    breaker: Br,
    discovery: Dc,
    health: He,
}

impl Stack {
    /// No layers yet.
    pub fn builder() -> Self {
        let none = Identity::new;
        Self {
            deadline: none(),
            admission: none(),
            retry: none(),
            hedge: none(),
            breaker: none(),
            discovery: none(),
            health: none(),
        }
    }
}

impl<Ad, Rt, Hg, Br, Dc, He> Stack<Identity, Ad, Rt, Hg, Br, Dc, He> {
    /// Bounds the whole call.
    pub fn deadline(self, deadline: DeadlineLayer) -> Stack<DeadlineLayer, Ad, Rt, Hg, Br, Dc, He> {
        let Self { admission, retry, hedge, breaker, discovery, health, .. } = self;
        Stack { deadline, admission, retry, hedge, breaker, discovery, health }
    }
}

impl<Dl, Rt, Hg, Br, Dc, He> Stack<Dl, Identity, Rt, Hg, Br, Dc, He> {
    /// Refuses calls that cannot be served. One that watches an endpoint belongs into what discovery puts around each.
    pub fn admission<C>(
        self,
        admission: AdmissionLayer<C>,
    ) -> Stack<Dl, AdmissionLayer<C>, Rt, Hg, Br, Dc, He> {
        let Self { deadline, retry, hedge, breaker, discovery, health, .. } = self;
        Stack { deadline, admission, retry, hedge, breaker, discovery, health }
    }
}

impl<Dl, Ad, Hg, Br, Dc, He> Stack<Dl, Ad, Identity, Hg, Br, Dc, He> {
    /// Sends again what failed.
    pub fn retry<C, R>(self, retry: RetryLayer<C, R>) -> Stack<Dl, Ad, RetryLayer<C, R>, Hg, Br, Dc, He> {
        let Self { deadline, admission, hedge, breaker, discovery, health, .. } = self;
        Stack { deadline, admission, retry, hedge, breaker, discovery, health }
    }
}

impl<Dl, Ad, Rt, Br, Dc, He> Stack<Dl, Ad, Rt, Identity, Br, Dc, He> {
    /// Sends beside it what takes long.
    pub fn hedge<C, R>(self, hedge: HedgeLayer<C, R>) -> Stack<Dl, Ad, Rt, HedgeLayer<C, R>, Br, Dc, He> {
        let Self { deadline, admission, retry, breaker, discovery, health, .. } = self;
        Stack { deadline, admission, retry, hedge, breaker, discovery, health }
    }
}

impl<Dl, Ad, Rt, Hg, Dc, He> Stack<Dl, Ad, Rt, Hg, Identity, Dc, He> {
    /// Stops calling what keeps failing: each endpoint by itself if there is discovery, the client if there is not.
    pub fn breaker<C>(self, breaker: BreakerLayer<C>) -> Stack<Dl, Ad, Rt, Hg, BreakerLayer<C>, Dc, He> {
        let Self { deadline, admission, retry, hedge, discovery, health, .. } = self;
        Stack { deadline, admission, retry, hedge, breaker, discovery, health }
    }
}

impl<Dl, Ad, Rt, Hg, Br, He> Stack<Dl, Ad, Rt, Hg, Br, Identity, He> {
    /// Finds endpoints and spreads calls over them. What it puts around each endpoint stays, inside the breaker.
    pub fn discovery<B, P, C>(
        self,
        discovery: DiscoveryLayer<B, P, C>,
    ) -> Stack<Dl, Ad, Rt, Hg, Br, DiscoveryLayer<B, P, C>, He> {
        let Self { deadline, admission, retry, hedge, breaker, health, .. } = self;
        Stack { deadline, admission, retry, hedge, breaker, discovery, health }
    }
}

impl<Dl, Ad, Rt, Hg, Br, Dc> Stack<Dl, Ad, Rt, Hg, Br, Dc, Identity> {
    /// Has the endpoints probed; needs discovery.
    pub fn health(self, health: HealthLayer) -> Stack<Dl, Ad, Rt, Hg, Br, Dc, HealthLayer> {
        let Self { deadline, admission, retry, hedge, breaker, discovery, .. } = self;
        Stack { deadline, admission, retry, hedge, breaker, discovery, health }
    }
}

impl<Dl, Ad, Rt, Hg, Br, Dc, He> Stack<Dl, Ad, Rt, Hg, Br, Dc, He> {
    /// Puts the layers around `client`.
    pub fn service<Client>(&self, client: Client) -> <Self as Layer<Client>>::Service
    where
        Self: Layer<Client>,
    {
        self.layer(client)
    }
}

impl<Client, Dl, Ad, Rt, Hg, Br> Layer<Client> for Stack<Dl, Ad, Rt, Hg, Br>
where
    Br: Layer<Client>,
    Rt: CountsCalls,
    Hg: BesideRetry,
    Hg: Layer<Br::Service>,
    Rt: Layer<Hg::Service>,
    Ad: Layer<Rt::Service>,
    Dl: Layer<Ad::Service>,
{
    type Service = Dl::Service;

    fn layer(&self, client: Client) -> Self::Service {
        let hedge = self.hedge.beside(Rt::COUNTS);
        let inner = self.retry.layer(hedge.layer(self.breaker.layer(client)));
        self.deadline.layer(self.admission.layer(inner))
    }
}

impl<Client, Dl, Ad, Rt, Hg, Br, B, P, C, He> Layer<Client>
    for Stack<Dl, Ad, Rt, Hg, Br, DiscoveryLayer<B, P, C>, He>
where
    Client: Send + Sync + 'static,
    B: Bind<Client> + Send + Sync + 'static,
    P: PerEndpoint<B::Service> + Send + Sync + 'static,
    He: Watches + Clone + Send + Sync + 'static,
    Br: AroundEndpoint<P::Service> + Clone + Send + Sync + 'static,
    Br::Service: Clone + Send + Sync + 'static,
    C: Clone,
    Rt: CountsCalls,
    Hg: BesideRetry,
    Hg: Layer<Balance<Br::Service, C>>,
    Rt: Layer<Hg::Service>,
    Ad: Layer<Rt::Service>,
    Dl: Layer<Ad::Service>,
{
    type Service = Dl::Service;

    fn layer(&self, client: Client) -> Self::Service {
        let (breaker, health) = (self.breaker.clone(), self.health.clone());
        let discovery = self.discovery.clone();
        let discovery = discovery.wrap_endpoint_stack(|inner| EndpointStack { health, breaker, inner });
        let hedge = self.hedge.beside(Rt::COUNTS);
        let inner = self.retry.layer(hedge.layer(discovery.layer(client)));
        self.deadline.layer(self.admission.layer(inner))
    }
}

/// What stands around each endpoint: probes, a circuit, and what the discovery layer has there.
struct EndpointStack<He, Br, P> {
    health: He,
    breaker: Br,
    inner: Arc<P>,
}

impl<S, He, Br, P> PerEndpoint<S> for EndpointStack<He, Br, P>
where
    He: Watches,
    P: PerEndpoint<S>,
    Br: AroundEndpoint<P::Service>,
{
    type Service = Br::Service;
    const PREFETCH: Option<fn(&Self::Service)> = Br::PREFETCH;

    fn layer(&self, endpoint: &EndpointHandle, service: S) -> Self::Service {
        self.health.watch(endpoint);
        self.breaker.around(endpoint, self.inner.layer(endpoint, service))
    }
}

/// What has an endpoint probed, or nothing.
pub trait Watches {
    /// Has it probed from now on.
    fn watch(&self, endpoint: &EndpointHandle);
}

impl Watches for Identity {
    fn watch(&self, _endpoint: &EndpointHandle) {}
}

impl Watches for HealthLayer {
    fn watch(&self, endpoint: &EndpointHandle) {
        let _registered = self.watching(endpoint);
    }
}

/// What stands around an endpoint's service, or nothing.
pub trait AroundEndpoint<S> {
    /// The service with it.
    type Service;

    /// What a call through it touches; see [`PerEndpoint::PREFETCH`].
    const PREFETCH: Option<fn(&Self::Service)> = None;

    /// Puts it around the service of `endpoint`.
    fn around(&self, endpoint: &EndpointHandle, service: S) -> Self::Service;
}

impl<S> AroundEndpoint<S> for Identity {
    type Service = S;

    fn around(&self, _endpoint: &EndpointHandle, service: S) -> S {
        service
    }
}

impl<S, C: Clone> AroundEndpoint<S> for BreakerLayer<C> {
    type Service = Breaker<S, C>;
    const PREFETCH: Option<fn(&Self::Service)> = Some(Breaker::prefetch);

    fn around(&self, endpoint: &EndpointHandle, service: S) -> Breaker<S, C> {
        self.watching(endpoint).layer(service)
    }
}

/// Whether calls are counted for the budget there already.
pub trait CountsCalls {
    /// Whether they are.
    const COUNTS: bool;
}

impl CountsCalls for Identity {
    const COUNTS: bool = false;
}

impl<C, R> CountsCalls for RetryLayer<C, R> {
    const COUNTS: bool = true;
}

/// What stands inside a retry, or inside none.
pub trait BesideRetry: Sized {
    /// The same, which leaves counting to the retry if that `counts`.
    fn beside(&self, counts: bool) -> Self;
}

impl BesideRetry for Identity {
    fn beside(&self, _counts: bool) -> Self {
        Self::new()
    }
}

impl<C: Clone, R: Clone> BesideRetry for HedgeLayer<C, R> {
    fn beside(&self, counts: bool) -> Self {
        if counts { self.clone().counted_outside() } else { self.clone() }
    }
}
