//! The layer that puts a breaker around a service.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tower_layer::Layer;
use tower_mesh_core::{ByEndpoint, EndpointHandle};

use crate::circuit::{Circuit, CircuitEvent, Family, Inner};
use crate::config::BreakerConfig;
use crate::keyed::KeyedBreakerLayer;
use crate::outlier::Outliers;
use crate::service::{Breaker, clock};

/// Puts a circuit around a service, alone or for one endpoint.
///
/// One layer is one circuit: all services made from it and its clones share it. [`watching`](BreakerLayer::watching) gives each endpoint a circuit of its own.
/// `C` judges what is a failure; see [`Classify`](tower_mesh_core::Classify).
#[derive(Clone)]
pub struct BreakerLayer<C> {
    common: Arc<Common>,
    classifier: C,
    circuit: Circuit,
    watching: bool,
    outliers: Option<Outliers>,
}

/// What a layer, its clones and the layers of its endpoints share.
struct Common {
    config: Mutex<Arc<BreakerConfig>>,
    family: Arc<Family>,
    /// A circuit goes with the services of its endpoint.
    endpoints: Mutex<ByEndpoint<Weak<Inner>>>,
}

impl<C> BreakerLayer<C> {
    /// A closed circuit.
    pub fn new(config: BreakerConfig, classifier: C) -> Self {
        Self::with_family(config, classifier, Family::default())
    }

    /// A closed circuit of a breaker that reports call `name`.
    pub fn named(name: &str, config: BreakerConfig, classifier: C) -> Self {
        Self::with_family(config, classifier, Family { name: Some(name.into()), ..Family::default() })
    }

    fn with_family(config: BreakerConfig, classifier: C, family: Family) -> Self {
        let family = Arc::new(family);
        let config = Arc::new(config);
        let circuit = Circuit::build(config.clone(), clock(), family.clone(), None, None).announced();
        let common = Common { config: Mutex::new(config), family, endpoints: Mutex::default() };
        Self { common: Arc::new(common), classifier, circuit, watching: false, outliers: None }
    }

    /// A layer around `circuit`, which others may share.
    pub fn around(circuit: Circuit, classifier: C) -> Self {
        let common = Common {
            config: Mutex::new(Arc::new(circuit.config())),
            family: circuit.family().clone(),
            endpoints: Mutex::default(),
        };
        Self { common: Arc::new(common), classifier, circuit, watching: false, outliers: None }
    }

    /// The layer for one endpoint: its circuit shows in the endpoint's availability, and a refusal is the balancer's to handle, which picks another.
    ///
    /// Asked twice for one endpoint, by two stacks that share this layer, it gives the same circuit.
    pub fn watching(&self, endpoint: &EndpointHandle) -> Self
    where
        C: Clone,
    {
        let common = &self.common;
        let mut endpoints = common.endpoints();
        let known = endpoints.get(endpoint).and_then(Circuit::upgrade);
        let is_new = known.is_none();
        let circuit = known.unwrap_or_else(|| {
            let member = self.outliers.as_ref().map(|outliers| outliers.member(endpoint));
            // Under the lock of the endpoints: a reload sees this circuit, or this the reload's configuration.
            let config = common.config();
            let circuit =
                Circuit::build(config, clock(), common.family.clone(), Some(endpoint.clone()), member);
            endpoints.insert(endpoint, circuit.downgrade(), |known| known.strong_count() > 0);
            circuit
        });
        drop(endpoints);
        let circuit = if is_new { circuit.announced() } else { circuit };
        Self {
            common: common.clone(),
            classifier: self.classifier.clone(),
            circuit,
            watching: true,
            outliers: self.outliers.clone(),
        }
    }

    /// The configuration in use.
    pub fn config(&self) -> BreakerConfig {
        *self.common.config()
    }

    /// Goes by `config` from now on: the circuit of this layer, those of all endpoints watched through it or its clones, and those to come. See
    /// [`Circuit::reload`] for what stays.
    pub fn reload(&self, config: BreakerConfig) {
        let config = Arc::new(config);
        let circuits = {
            let mut endpoints = self.common.endpoints();
            *self.common.config.lock().unwrap_or_else(PoisonError::into_inner) = config.clone();
            endpoints.alive(Circuit::upgrade)
        };
        let now = clock();
        self.circuit.reload_shared(&config, now);
        for circuit in circuits {
            circuit.reload_shared(&config, now);
        }
    }

    /// Tells `listener` of every transition of the circuits that [`reload`](Self::reload) reaches. See [`Circuit::on_transition`].
    pub fn on_transition(&self, listener: impl Fn(&CircuitEvent) + Send + Sync + 'static) {
        self.common.family.listeners.add(listener);
    }

    /// What the circuits of endpoints hear of is also counted for this set, which ejects those of them that are outliers among their peers: for a stack with
    /// both there is no second layer. A circuit that is disabled still counts there. Endpoints that are watched already are not in the set.
    pub fn ejecting(self, outliers: &Outliers) -> Self {
        Self { outliers: Some(outliers.clone()), ..self }
    }

    /// The same circuits, with another judgement on what is a failure.
    pub fn classify<C2>(self, classifier: C2) -> BreakerLayer<C2> {
        BreakerLayer {
            common: self.common,
            classifier,
            circuit: self.circuit,
            watching: self.watching,
            outliers: self.outliers,
        }
    }

    /// A circuit for each key that `key_of` takes from a request: a tenant, a route, a shard. At most 1000 at a time; see [`KeyedBreakerLayer`] for what
    /// happens to keys that come after, or are not used any more. The circuit of this layer is that of all others.
    ///
    /// ```
    /// # use tower_mesh_breaker::{BreakerConfig, BreakerLayer};
    /// # use tower_mesh_core::classify::ByResult;
    /// struct Query { tenant: u32 }
    /// let layer = BreakerLayer::new(BreakerConfig::default(), ByResult).keyed(|query: &Query| query.tenant);
    /// ```
    pub fn keyed<Req, K, F>(self, key_of: F) -> KeyedBreakerLayer<K, F, C>
    where
        F: Fn(&Req) -> K,
        K: Hash + Eq + Clone,
    {
        KeyedBreakerLayer::new(self.common.config(), self.circuit, key_of, self.classifier)
    }

    /// The circuit of this layer: of the one endpoint, if it watches one.
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// The circuits of all endpoints watched through this layer, in no order.
    pub fn circuits(&self) -> Vec<Circuit> {
        self.common.endpoints().alive(Circuit::upgrade)
    }
}

impl Common {
    fn config(&self) -> Arc<BreakerConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn endpoints(&self) -> MutexGuard<'_, ByEndpoint<Weak<Inner>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S, C: Clone> Layer<S> for BreakerLayer<C> {
    type Service = Breaker<S, C>;

    fn layer(&self, inner: S) -> Breaker<S, C> {
        Breaker::new(inner, self.circuit.clone(), self.classifier.clone(), self.watching)
    }
}

impl<C> fmt::Debug for BreakerLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerLayer")
            .field("circuit", &self.circuit)
            .field("watching", &self.watching)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::classify::ByResult;

    use super::*;
    use crate::policy::machine::State;

    fn endpoint() -> EndpointHandle {
        EndpointHandle::new("a:1".parse().unwrap())
    }

    #[test]
    fn two_stacks_of_one_endpoint_share_its_circuit_and_others_do_not() {
        let breaker = BreakerLayer::new(BreakerConfig::default(), ByResult);
        let (a, b) = (endpoint(), endpoint());
        let (one, same, other) = (breaker.watching(&a), breaker.clone().watching(&a), breaker.watching(&b));
        one.circuit().trip(clock());
        let states = [&one, &same, &other, &breaker].map(|layer| layer.circuit().state());
        assert_eq!(states, [State::Open, State::Open, State::Closed, State::Closed]);
        assert_eq!(breaker.circuits().len(), 2);
    }

    #[test]
    fn circuits_go_with_their_endpoints_and_leave_nothing_behind() {
        let breaker = BreakerLayer::new(BreakerConfig::default(), ByResult);
        let kept = breaker.watching(&endpoint()).layer(());
        for _ in 0..1000 {
            let endpoint = endpoint();
            let service = breaker.watching(&endpoint).layer(());
            assert_eq!(breaker.circuits().len(), 2);
            let weak = endpoint.downgrade();
            drop((endpoint, service));
            assert!(weak.upgrade().is_none());
        }
        assert_eq!(breaker.circuits().len(), 1);
        assert_eq!(kept.circuit().state(), State::Closed);
    }
}
