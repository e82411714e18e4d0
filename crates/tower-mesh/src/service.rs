//! From a service's name to a tower service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_mesh_admission::Admission;
use tower_mesh_breaker::{Breaker, BreakerLayer};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::replay::NotIdempotent;
use tower_mesh_core::{
    Bind, BoxError, CallContext, CallOptions, EndpointHandle, Operation, ServiceName, Sharded, Tick,
};
use tower_mesh_discovery::{Balance, DiscoveryLayer, NoLayers, PerEndpoint, Picker};
use tower_mesh_health::HealthLayer;
use tower_mesh_retry::{Deadline, Hedge, Retry};
use tower_service::Service;

pub use tower_mesh_discovery::With;

#[cfg(feature = "http")]
use crate::credentials::authority;
use crate::error::{Error, ErrorKind};
use crate::lifecycle::Lifecycle;
use crate::measure::Ended;
use crate::part::Part;
use crate::span::CallSpan;
use crate::under_way::Counted;

/// A service of the mesh, to be joined with the client that reaches it.
///
/// Everything made from handles to one service shares its endpoints, circuits, probes and retry budget. Circuits live as long as any of it: make the
/// service once and clone it, rather than once for each call.
#[must_use = "it becomes a service by http, bind or connect"]
pub struct ServiceHandle<P = NoLayers, C = ByResult, R = NotIdempotent> {
    pub(crate) part: Arc<Part>,
    lifecycle: Arc<Lifecycle>,
    discovery: DiscoveryLayer,
    per_endpoint: P,
    classifier: C,
    replay: R,
}

/// The layers that the mesh puts together, outermost first: deadline, admission, retry, hedge, balance, and around each endpoint's service a circuit.
pub type Tower<S, C, R> = Deadline<Admission<Retry<Hedge<Balance<Breaker<S, C>, C>, C, R>, C, R>, C>>;

/// What [`ServiceHandle::bind`] and [`ServiceHandle::connect`] give for endpoint services `S`.
pub type Connected<S, C, R> = MeshService<Tower<S, C, R>>;

impl ServiceHandle {
    pub(crate) fn new(part: Arc<Part>, lifecycle: Arc<Lifecycle>) -> Self {
        let discovery = part.discovery.clone();
        Self {
            part,
            lifecycle,
            discovery,
            per_endpoint: NoLayers,
            classifier: ByResult,
            replay: NotIdempotent,
        }
    }
}

impl<P, C, R> ServiceHandle<P, C, R> {
    /// Layers of the user's own around each endpoint's service, inside its circuit. Default none.
    pub fn per_endpoint<F, L>(self, layers: F) -> ServiceHandle<With<F>, C, R>
    where
        F: Fn(&EndpointHandle) -> L,
    {
        let Self { part, lifecycle, discovery, classifier, replay, .. } = self;
        ServiceHandle { part, lifecycle, discovery, per_endpoint: With::new(layers), classifier, replay }
    }

    /// Chooses endpoints by a picker of the caller's own, for what is made from this handle: see [`DiscoveryLayer::pick_with`]. Default: the algorithm of the
    /// configuration.
    pub fn pick_with<F, K>(self, make: F) -> Self
    where
        F: Fn(&[EndpointHandle]) -> K + Send + Sync + 'static,
        K: Picker,
    {
        Self { discovery: self.discovery.pick_with(make), ..self }
    }

    /// What counts as a failure. Default: `Err` does; over HTTP, what [`Classifier`](tower_mesh_http::Classifier) says.
    pub fn classify<C2>(self, classifier: C2) -> ServiceHandle<P, C2, R> {
        let Self { part, lifecycle, discovery, per_endpoint, replay, .. } = self;
        ServiceHandle { part, lifecycle, discovery, per_endpoint, classifier, replay }
    }

    /// Which requests may be sent twice. Default: those that certainly were not processed; over HTTP, also what is idempotent by its method.
    pub fn replay<R2>(self, replay: R2) -> ServiceHandle<P, C, R2> {
        let Self { part, lifecycle, discovery, per_endpoint, classifier, .. } = self;
        ServiceHandle { part, lifecycle, discovery, per_endpoint, classifier, replay }
    }

    /// The service for a client that reaches any address: `bind` makes each endpoint's service out of it. The token of a table `credentials` is not sent, unless `bind` does.
    pub fn bind<B, Client>(self, bind: B, client: Client) -> Connected<P::Service, C, R>
    where
        Client: Send + Sync + 'static,
        B: Bind<Client> + Send + Sync + 'static,
        P: PerEndpoint<B::Service> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
        C: Clone + Send + Sync + 'static,
        R: Clone,
    {
        if self.part.credentials.is_some() {
            let service = self.part.name.as_str();
            tracing::warn!(
                service,
                "its table `credentials` is of no effect on what `bind` or `connect` makes"
            );
        }
        self.bound(bind, client)
    }

    pub(crate) fn bound<B, Client>(self, bind: B, client: Client) -> Connected<P::Service, C, R>
    where
        Client: Send + Sync + 'static,
        B: Bind<Client> + Send + Sync + 'static,
        P: PerEndpoint<B::Service> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
        C: Clone + Send + Sync + 'static,
        R: Clone,
    {
        let Self { part, lifecycle, discovery, per_endpoint, classifier, replay } = self;
        let stack = EndpointStack {
            health: part.health.clone(),
            breaker: part.breaker.clone().classify(classifier.clone()),
            inner: per_endpoint,
        };
        let discovery = discovery.bind(bind).endpoint_stack(stack).classify(classifier.clone());
        let hedge = part.hedge.clone().classify(classifier.clone()).replay(replay.clone());
        let retry = part.retry.clone().classify(classifier.clone()).replay(replay);
        let admission = part.admission.clone().classify(classifier);
        let inner = admission.layer(retry.layer(hedge.layer(discovery.layer(client))));
        let inner = part.deadline.layer(inner);
        let gate = Gate { part, lifecycle };
        MeshService { inner, gate: Sharded::new(gate), operation: None, in_span: false }
    }

    /// The service where there is no client to begin with: `connect` makes each endpoint's service, lazily connected.
    pub fn connect<F, S>(self, connect: F) -> Connected<P::Service, C, R>
    where
        F: Fn(&EndpointHandle) -> S + Send + Sync + 'static,
        S: 'static,
        P: PerEndpoint<S> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
        C: Clone + Send + Sync + 'static,
        R: Clone,
    {
        self.bind(move |_: &(), endpoint: &EndpointHandle| connect(endpoint), ())
    }
}

/// What [`ServiceHandle::http`] gives for a client without layers around each endpoint: for the state of an application, or a field.
#[cfg(feature = "http")]
pub type HttpService<Client> =
    Connected<tower_mesh_http::Rewrite<Client>, tower_mesh_http::Classifier, tower_mesh_http::Classifier>;

#[cfg(feature = "http")]
impl<P> ServiceHandle<P> {
    /// The service over `http::Request`, through a client that goes where the request's URI points, such as hyper-util's.
    ///
    /// Bodies are clonable, or streams in a [`ReplayBody`](tower_mesh_http::ReplayBody). The call is over with the last byte of the answer's body; a body that is dropped half way
    /// is an abandoned call.
    pub fn http<Client>(
        self,
        client: Client,
    ) -> Connected<P::Service, tower_mesh_http::Classifier, tower_mesh_http::Classifier>
    where
        Client: Clone + Send + Sync + 'static,
        P: PerEndpoint<tower_mesh_http::Rewrite<Client>> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
    {
        self.classify(tower_mesh_http::Classifier::default()).http(client)
    }
}

#[cfg(feature = "http")]
impl<P> ServiceHandle<P, tower_mesh_http::Classifier> {
    /// The same with a classifier that has been told what statuses mean to this service or to its operations.
    pub fn http<Client>(
        self,
        client: Client,
    ) -> Connected<P::Service, tower_mesh_http::Classifier, tower_mesh_http::Classifier>
    where
        Client: Clone + Send + Sync + 'static,
        P: PerEndpoint<tower_mesh_http::Rewrite<Client>> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
    {
        let (classifier, bind) = (self.classifier.clone(), authority(self.part.credentials.as_ref()));
        self.replay(classifier).bound(bind, client)
    }
}

#[cfg(feature = "reqwest")]
impl<P> ServiceHandle<P> {
    /// The service over `reqwest::Request`, whose URL may name any host. What it answers becomes a `reqwest::Response` by `from`. The client should follow no
    /// redirects: where they lead is not known to the mesh.
    pub fn reqwest<Client>(
        self,
        client: Client,
    ) -> Connected<P::Service, tower_mesh_http::Classifier, tower_mesh_http::Reqwest>
    where
        Client: Clone + Send + Sync + 'static,
        P: PerEndpoint<tower_mesh_http::Rewrite<Client>> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
    {
        let bind = authority(self.part.credentials.as_ref());
        self.classify(tower_mesh_http::Classifier::default())
            .replay(tower_mesh_http::Reqwest)
            .bound(bind, client)
    }
}

impl<P, C, R> fmt::Debug for ServiceHandle<P, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceHandle").field("service", &self.part.name).finish_non_exhaustive()
    }
}

/// Around each endpoint: probes, the circuit, then what the user put there.
struct EndpointStack<P, C> {
    health: Option<HealthLayer>,
    breaker: BreakerLayer<C>,
    inner: P,
}

impl<S, P, C> PerEndpoint<S> for EndpointStack<P, C>
where
    P: PerEndpoint<S>,
    C: Clone,
{
    type Service = Breaker<P::Service, C>;
    const PREFETCH: Option<fn(&Self::Service)> = Some(Breaker::prefetch);

    fn layer(&self, endpoint: &EndpointHandle, service: S) -> Self::Service {
        let service = self.breaker.watching(endpoint).layer(self.inner.layer(endpoint, service));
        match &self.health {
            Some(health) => health.watching(endpoint).layer(service),
            None => service,
        }
    }
}

/// Calls to one service of the mesh. Clones are cheap and share everything.
///
/// It is always ready: what a call waits for, it waits for inside its deadline. Dropping the response future abandons the call.
#[derive(Clone)]
pub struct MeshService<S> {
    inner: S,
    gate: Sharded<Gate>,
    operation: Option<Operation>,
    /// A call is being made, and has its span.
    in_span: bool,
}

/// What every call asks first.
struct Gate {
    /// Goes first: what ends with the part is then no failure.
    lifecycle: Arc<Lifecycle>,
    part: Arc<Part>,
}

impl<S> MeshService<S> {
    /// The same service, for calls of this operation: the name goes into errors, events and what policies go by.
    pub fn operation(&self, name: &str) -> Self
    where
        S: Clone,
    {
        Self { operation: Some(Operation::named(name)), ..self.clone() }
    }

    /// The service's name.
    pub fn name(&self) -> &ServiceName {
        &self.gate.part.name
    }

    /// The layers.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, Req> Service<Req> for MeshService<S>
where
    S: Service<Req, Error = BoxError>,
{
    type Response = S::Response;
    type Error = Error;
    type Future = MeshFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx).map_err(|error| Error::of_call(error, &self.gate.part.name, self.operation))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        if CallSpan::is_wanted() && !self.in_span {
            return call_in_span(self, request);
        }
        // The clone counts on the thread that calls now, and stays; the call takes what was here.
        let clone = self.gate.clone();
        let gate = std::mem::replace(&mut self.gate, clone);
        let operation = self.operation.or_else(|| CallContext::with(|call| call.operation()).flatten());
        let began = gate.part.measured.as_ref().map(|_| clock());
        let state = match gate.lifecycle.admit(&gate.part, operation) {
            Err(error) => State::Refused { error: Some(error) },
            Ok(()) => {
                let options = operation.map(|operation| gate.part.options_of(operation)).unwrap_or_default();
                let future = match operation {
                    // The layers inside take it over when they are called, and keep it.
                    Some(operation) if self.operation.is_some() || options != CallOptions::new() => {
                        let call = CallContext::inherit().with_operation(operation);
                        let options = call.options().or(options);
                        call.with_options(options).lend(|| self.inner.call(request))
                    }
                    _ => self.inner.call(request),
                };
                State::Calling { future }
            }
        };
        MeshFuture { state, gate, operation, counted: None, span: CallSpan::none(), began }
    }
}

/// Makes the call inside a span. It calls the service once more, which has the one place where the layers are called: with a second one they would not be inlined
/// there, and with a span to be dropped on the way their future would be moved once more.
#[cold]
#[inline(never)]
fn call_in_span<S, Req>(service: &mut MeshService<S>, request: Req) -> MeshFuture<S::Future>
where
    S: Service<Req, Error = BoxError>,
{
    /// Whatever happens, the next call has a span of its own.
    struct Inside<'a, S>(&'a mut MeshService<S>);
    impl<S> Drop for Inside<'_, S> {
        fn drop(&mut self) {
            self.0.in_span = false;
        }
    }
    let operation = service.operation.or_else(|| CallContext::with(|call| call.operation()).flatten());
    let span = CallSpan::new(&service.gate.part.name, operation);
    service.in_span = true;
    let inside = Inside(service);
    span.enter();
    let mut future = inside.0.call(request);
    span.leave();
    future.span = span;
    future
}

impl<S> fmt::Debug for MeshService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshService")
            .field("service", &self.gate.part.name)
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// The response of a [`MeshService`]. Dropping it abandons the call.
    pub struct MeshFuture<F> {
        #[pin]
        state: State<F>,
        gate: Sharded<Gate>,
        operation: Option<Operation>,
        counted: Option<Counted>,
        span: CallSpan,
        // If calls are measured, until it has ended.
        began: Option<Tick>,
    }
    impl<F> PinnedDrop for MeshFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(began) = this.began.take() {
                measure(this.gate, *this.operation, began, Ended::Abandoned);
            }
            if let Some(counted) = this.counted.take() {
                this.gate.part.calls.end(counted);
            }
        }
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<F> {
        // Polls the service's layers.
        Calling { #[pin] future: F },
        // Nothing was called.
        Refused { error: Option<Error> },
    }
}

impl<F, Res> Future for MeshFuture<F>
where
    F: Future<Output = Result<Res, BoxError>>,
{
    type Output = Result<Res, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let calls = &this.gate.part.calls;
        let result = match this.state.project() {
            StateProj::Calling { future } => {
                this.span.enter();
                let polled = future.poll(cx);
                this.span.leave();
                let Poll::Ready(result) = polled else {
                    this.counted.get_or_insert_with(|| calls.begin());
                    return Poll::Pending;
                };
                if let Some(counted) = this.counted.take() {
                    calls.end(counted);
                }
                result.map_err(|error| Error::of_call(error, &this.gate.part.name, *this.operation))
            }
            StateProj::Refused { error } => {
                Err(error.take().expect("a future is not polled after it is ready"))
            }
        };
        if let Some(began) = this.began.take() {
            let ended = result.as_ref().map_or_else(|error| Ended::Badly(error.kind()), |_| Ended::Well);
            measure(this.gate, *this.operation, began, ended);
        }
        this.span.ended(|| result.as_ref().map_or_else(|error| error.kind().as_str(), |_| "ok"));
        Poll::Ready(result)
    }
}

#[cold]
#[inline(never)]
fn measure(gate: &Gate, operation: Option<Operation>, began: Tick, ended: Ended) {
    if let Some(calls) = &gate.part.measured {
        let refused = matches!(ended, Ended::Badly(ErrorKind::NotStarted | ErrorKind::ShuttingDown));
        calls.ended(operation, ended, (!refused).then(|| clock().since(began)));
    }
}

fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

impl<F> fmt::Debug for MeshFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshFuture").field("service", &self.gate.part.name).finish_non_exhaustive()
    }
}
