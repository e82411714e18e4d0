//! The layer that turns a client which reaches any address into a service that picks one of the endpoints there are.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tower_layer::Layer;
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{Bind, EndpointHandle, Resolve, SameClient, ServiceName, Sharded};

use crate::algorithm::{Algorithm, Choice};
use crate::balance::Balance;
use crate::candidates::Picker;
use crate::config::DiscoveryConfig;
use crate::driver::Driver;
use crate::event::DiscoveryEvent;
use crate::in_flight::Rules;
use crate::plan::Settings;
use crate::set::{Binding, Set, Shared, Subscriber};
use crate::source::Source;
use crate::status::DiscoveryStatus;

/// Finds the endpoints of one service and spreads calls over them.
///
/// Every service made from one layer (and its clones) shares one resolution and one record per endpoint. The work in the background is
/// the [`Driver`]'s; constructing spawns nothing.
pub struct DiscoveryLayer<B = SameClient, P = NoLayers, C = ByResult> {
    source: Arc<Source>,
    config: DiscoveryConfig,
    bind: Arc<B>,
    per_endpoint: Arc<P>,
    classifier: C,
    settings: Settings,
}

impl DiscoveryLayer {
    /// A layer over the endpoints that `resolver` knows of `service`, and the driver that must run for it.
    pub fn new<R: Resolve>(resolver: &R, service: ServiceName) -> (Self, Driver<R::Updates>) {
        Self::with_config(resolver, service, DiscoveryConfig::default())
    }

    /// As [`DiscoveryLayer::new`], with other than the default knobs.
    pub fn with_config<R: Resolve>(
        resolver: &R,
        service: ServiceName,
        config: DiscoveryConfig,
    ) -> (Self, Driver<R::Updates>) {
        Self::over(resolver.resolve(&service), service, config)
    }

    /// A layer over what `updates` says.
    pub(crate) fn over<U>(updates: U, service: ServiceName, config: DiscoveryConfig) -> (Self, Driver<U>) {
        let source = Source::new(service, config);
        let driver = Driver::new(updates, &source);
        let layer = Self {
            source,
            config,
            bind: Arc::new(SameClient),
            per_endpoint: Arc::new(NoLayers),
            classifier: ByResult,
            settings: Settings {
                choice: Choice::Algorithm(config.algorithm()),
                locality: None,
                seed: fastrand::u64(..),
            },
        };
        (layer, driver)
    }

    /// As [`DiscoveryLayer::new`], with the driver spawned on the current tokio runtime. It ends with the last clone of the layer and the last service made from it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<R: Resolve>(resolver: &R, service: ServiceName) -> Self {
        let (layer, driver) = Self::new(resolver, service);
        #[expect(clippy::disallowed_methods, reason = "asked for by name, and ends with the last clone")]
        tokio::task::spawn(driver);
        layer
    }
}

impl<B, P, C> DiscoveryLayer<B, P, C> {
    /// How an endpoint's service is made from the client. Default: every endpoint gets a clone of it.
    pub fn bind<B2>(self, bind: B2) -> DiscoveryLayer<B2, P, C> {
        DiscoveryLayer {
            source: self.source,
            config: self.config,
            bind: Arc::new(bind),
            per_endpoint: self.per_endpoint,
            classifier: self.classifier,
            settings: self.settings,
        }
    }

    /// The layers around each endpoint's service; the closure is called once for each endpoint that appears, so that each has state of its own.
    /// Default none.
    pub fn per_endpoint<F, L>(self, layers: F) -> DiscoveryLayer<B, With<F>, C>
    where
        F: Fn(&EndpointHandle) -> L,
    {
        DiscoveryLayer {
            source: self.source,
            config: self.config,
            bind: self.bind,
            per_endpoint: Arc::new(With::new(layers)),
            classifier: self.classifier,
            settings: self.settings,
        }
    }

    /// As [`per_endpoint`](Self::per_endpoint), with a type of the caller's own in place of a closure.
    pub fn endpoint_stack<P2>(self, stack: P2) -> DiscoveryLayer<B, P2, C> {
        DiscoveryLayer {
            source: self.source,
            config: self.config,
            bind: self.bind,
            per_endpoint: Arc::new(stack),
            classifier: self.classifier,
            settings: self.settings,
        }
    }

    /// Puts more around each endpoint's service: `wrap` gets what stands there by now.
    pub fn wrap_endpoint_stack<P2>(self, wrap: impl FnOnce(Arc<P>) -> P2) -> DiscoveryLayer<B, P2, C> {
        let Self { source, config, bind, per_endpoint, classifier, settings } = self;
        DiscoveryLayer {
            source,
            config,
            bind,
            per_endpoint: Arc::new(wrap(per_endpoint)),
            classifier,
            settings,
        }
    }

    /// What counts as a failure. Default: `Err`.
    pub fn classify<C2>(self, classifier: C2) -> DiscoveryLayer<B, P, C2> {
        DiscoveryLayer {
            source: self.source,
            config: self.config,
            bind: self.bind,
            per_endpoint: self.per_endpoint,
            classifier,
            settings: self.settings,
        }
    }

    /// How an endpoint is chosen for each call. Default: what the configuration says, and there [`Algorithm::P2cEwma`].
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.settings.choice = Choice::Algorithm(algorithm);
        self
    }

    /// Chooses endpoints by a picker of the caller's own: `make` is called with the endpoints of each level and locality whenever one of them comes, goes or changes. See
    /// [`Picker`].
    pub fn pick_with<F, K>(mut self, make: F) -> Self
    where
        F: Fn(&[EndpointHandle]) -> K + Send + Sync + 'static,
        K: Picker,
    {
        self.settings.choice = Choice::Own(Arc::new(move |endpoints| Box::new(make(endpoints))));
        self
    }

    /// Where the caller stands: endpoints of the same locality are preferred, and as many calls go to others as those have left over. Default none: localities
    /// are not looked at.
    ///
    /// The rule is Envoy's: if the own locality has at least its part of the usable endpoints, all calls stay; else so much goes elsewhere as it falls short. Callers are
    /// taken to be as many in each locality. It holds within a failover level, with at least 6 usable endpoints and out of panic; else localities are not looked at.
    pub fn locality(mut self, own: impl AsRef<str>) -> Self {
        self.settings.locality = Some(own.as_ref().into());
        self
    }

    /// Which subset of the endpoints this client uses, where [`DiscoveryConfig::subset_size`] bounds them: clients with the same seed use the same.
    /// Default: random, so that many clients together use all alike.
    pub fn subset_seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// The balancer where there is no client to begin with: `connect` makes each endpoint's service, lazily connected, from nothing.
    pub fn connect<F, S>(self, connect: F) -> Balance<P::Service, C>
    where
        F: Fn(&EndpointHandle) -> S + Send + Sync + 'static,
        P: PerEndpoint<S> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
        C: Clone,
        S: 'static,
    {
        self.bind(move |_: &(), endpoint: &EndpointHandle| connect(endpoint)).layer(())
    }

    /// The knobs.
    pub fn config(&self) -> &DiscoveryConfig {
        &self.config
    }

    /// Waits until the source has answered: endpoints, or that there is no such service. Not for ever bounded by itself.
    pub async fn answered(&self) -> DiscoveryStatus {
        loop {
            let changed = self.source.changed.notified();
            tokio::pin!(changed);
            // From here on a change is heard, so looking cannot miss one.
            changed.as_mut().enable();
            let status = self.status();
            if status.updated_at.is_some() {
                return status;
            }
            changed.await;
        }
    }

    /// Puts the service to rest until it is called or woken: see [`Driver::resting`]. Whether its driver can: only one that was given the resolver.
    pub fn rest(&self) -> bool {
        self.source.asked().rest()
    }

    /// Ends the rest before there is a call. Whether its driver can rest at all.
    pub fn wake(&self) -> bool {
        self.source.asked().wake()
    }

    /// Tells `listener` of every change of the endpoints, every error of the source, and every change of where resolution stands, from now on and after
    /// it is in force. It runs on the driver's task, under no lock, in the order of what happened, and should be quick; if it panics, nobody else is
    /// harmed.
    pub fn on_event(&self, listener: impl Fn(&DiscoveryEvent) + Send + Sync + 'static) {
        self.source.listeners.add(listener);
    }

    /// What is known now. Reading changes nothing.
    pub fn status(&self) -> DiscoveryStatus {
        self.source.status()
    }
}

impl<Client, B, P, C> Layer<Client> for DiscoveryLayer<B, P, C>
where
    Client: Send + Sync + 'static,
    B: Bind<Client> + Send + Sync + 'static,
    P: PerEndpoint<B::Service> + Send + Sync + 'static,
    P::Service: Clone + Send + Sync + 'static,
    C: Clone,
{
    type Service = Balance<P::Service, C>;

    fn layer(&self, client: Client) -> Self::Service {
        let shared = Sharded::new(Shared {
            set: ArcSwap::from_pointee(Set::empty()),
            config: self.config,
            rules: Rules::new(&self.config),
            settings: self.settings.clone(),
            source: self.source.clone(),
            prefetch: P::PREFETCH,
        });
        let binding: Arc<dyn Subscriber> = Arc::new(Binding {
            client,
            bind: self.bind.clone(),
            per_endpoint: self.per_endpoint.clone(),
            shared: shared.downgrade(),
        });
        self.source.subscribe(&binding);
        Balance::new(shared, self.classifier.clone())
    }
}

impl<B, P, C: Clone> Clone for DiscoveryLayer<B, P, C> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            config: self.config,
            bind: self.bind.clone(),
            per_endpoint: self.per_endpoint.clone(),
            classifier: self.classifier.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<B, P, C> fmt::Debug for DiscoveryLayer<B, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryLayer").field("service", &self.source.service).finish_non_exhaustive()
    }
}

/// The layers that stand around each endpoint's service. [`DiscoveryLayer::per_endpoint`] makes one from a closure.
pub trait PerEndpoint<S> {
    /// The endpoint's service with its layers.
    type Service;

    /// Asks memory for what a call through the service touches ([`tower_mesh_core::prefetch`]), reads nothing that may be far away and changes nothing. The balancer has it
    /// done for services that it will probably call next, where there are so many endpoints that these would be cache misses. Default none.
    const PREFETCH: Option<fn(&Self::Service)> = None;

    /// Puts the layers for `endpoint` around its service.
    fn layer(&self, endpoint: &EndpointHandle, service: S) -> Self::Service;
}

/// No layers around the endpoints.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLayers;

impl<S> PerEndpoint<S> for NoLayers {
    type Service = S;

    fn layer(&self, _endpoint: &EndpointHandle, service: S) -> S {
        service
    }
}

impl<S, P: PerEndpoint<S>> PerEndpoint<S> for Arc<P> {
    type Service = P::Service;
    const PREFETCH: Option<fn(&Self::Service)> = P::PREFETCH;

    fn layer(&self, endpoint: &EndpointHandle, service: S) -> P::Service {
        (**self).layer(endpoint, service)
    }
}

/// The layers that a closure gives for each endpoint.
#[derive(Clone)]
pub struct With<F>(F);

impl<F> With<F> {
    /// The layers that `layers` gives for each endpoint.
    pub fn new(layers: F) -> Self {
        Self(layers)
    }
}

impl<S, F, L> PerEndpoint<S> for With<F>
where
    F: Fn(&EndpointHandle) -> L,
    L: Layer<S>,
{
    type Service = L::Service;

    fn layer(&self, endpoint: &EndpointHandle, service: S) -> L::Service {
        (self.0)(endpoint).layer(service)
    }
}

impl<F> fmt::Debug for With<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("With")
    }
}
