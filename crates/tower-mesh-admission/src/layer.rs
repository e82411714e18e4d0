//! The layer that puts admission around a service.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tower_layer::Layer;
use tower_mesh_core::sharded::WeakSharded;
use tower_mesh_core::{ByEndpoint, EndpointHandle, EndpointId, Sharded, Tick};

use crate::config::AdmissionConfig;
use crate::service::{Admission, clock};
use crate::shared::{AdmissionSnapshot, Shared};

/// Admits calls to a service, alone or for one endpoint.
///
/// All services made from one layer and its clones share one limit. [`watching`](AdmissionLayer::watching) gives each endpoint one of its own. `C` judges how calls ended;
/// see [`Classify`](tower_mesh_core::Classify).
#[derive(Clone)]
pub struct AdmissionLayer<C> {
    common: Arc<Common>,
    shared: Sharded<Shared>,
    classifier: C,
    watching: bool,
}

/// What a layer, its clones and the layers of its endpoints share.
struct Common {
    config: Mutex<AdmissionConfig>,
    /// What is counted goes with the services of its endpoint.
    endpoints: Mutex<ByEndpoint<(EndpointId, WeakSharded<Shared>)>>,
}

impl<C> AdmissionLayer<C> {
    /// Admits by `config`: everything if it says nothing, at the cost of one look at a flag. It may be a [`LimitConfig`](crate::LimitConfig) or a [`SuccessRateConfig`](crate::SuccessRateConfig) alone.
    pub fn new(config: impl Into<AdmissionConfig>, classifier: C) -> Self {
        let config = config.into();
        let shared = Sharded::new(Shared::new(config, clock()));
        let common = Common { config: Mutex::new(config), endpoints: Mutex::default() };
        Self { common: Arc::new(common), shared, classifier, watching: false }
    }

    /// The layer for one endpoint, with counts of its own: a refusal is the balancer's to handle, which picks another.
    ///
    /// Asked twice for one endpoint, by two stacks that share this layer, it gives the same.
    pub fn watching(&self, endpoint: &EndpointHandle) -> Self
    where
        C: Clone,
    {
        let mut known = lock(&self.common.endpoints);
        let shared = known.get(endpoint).and_then(|(_, shared)| shared.upgrade());
        let shared = shared.unwrap_or_else(|| {
            // Under the lock of the endpoints: a reload sees this one, or this the reload's configuration.
            let shared = Sharded::new(Shared::new(self.config(), clock()));
            known.insert(endpoint, (endpoint.id().clone(), shared.downgrade()), |(_, shared)| {
                shared.is_alive()
            });
            shared
        });
        drop(known);
        Self { common: self.common.clone(), shared, classifier: self.classifier.clone(), watching: true }
    }

    /// The same, with another classifier: all of them share what is counted.
    pub fn classify<C2>(self, classifier: C2) -> AdmissionLayer<C2> {
        let Self { common, shared, watching, .. } = self;
        AdmissionLayer { common, shared, classifier, watching }
    }

    /// The configuration in use.
    pub fn config(&self) -> AdmissionConfig {
        *lock(&self.common.config)
    }

    /// Goes by `config` from now on, with all endpoints watched through it or its clones, and those to come. Calls under way stay; who waits is admitted where there is no limit any more; an adaptive limit goes on from where it is,
    /// within its new bounds, or begins anew if there was none, and what was counted of successes stays unless the window is another.
    pub fn reload(&self, config: AdmissionConfig) {
        let now = clock();
        let watched = {
            let mut known = lock(&self.common.endpoints);
            *lock(&self.common.config) = config;
            known.alive(|(_, shared)| shared.upgrade())
        };
        self.shared.reload(config, now);
        watched.iter().for_each(|shared| shared.reload(config, now));
    }

    /// What it admits by at `now`. Reading changes nothing.
    pub fn snapshot(&self, now: Tick) -> AdmissionSnapshot {
        self.shared.snapshot(now)
    }

    /// The same for each endpoint that is watched, in no order.
    pub fn endpoints(&self, now: Tick) -> Vec<(EndpointId, AdmissionSnapshot)> {
        let alive = lock(&self.common.endpoints).alive(|(id, shared)| Some((id.clone(), shared.upgrade()?)));
        alive.into_iter().map(|(id, shared)| (id, shared.snapshot(now))).collect()
    }
}

impl<S, C: Clone> Layer<S> for AdmissionLayer<C> {
    type Service = Admission<S, C>;

    fn layer(&self, inner: S) -> Admission<S, C> {
        Admission::new(inner, self.shared.clone(), self.classifier.clone(), self.watching)
    }
}

impl<C> fmt::Debug for AdmissionLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionLayer")
            .field("config", &self.config())
            .field("watching", &self.watching)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
