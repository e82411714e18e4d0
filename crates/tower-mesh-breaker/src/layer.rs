//! The layer that puts a breaker around a service.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tower_layer::Layer;
use tower_mesh_core::EndpointHandle;

use crate::circuit::{Circuit, Inner};
use crate::config::BreakerConfig;
use crate::outlier::Outliers;
use crate::service::{Breaker, clock};

/// Puts a circuit around a service, alone or for one endpoint.
///
/// One layer is one circuit: all services made from it and its clones share it. [`watching`](BreakerLayer::watching) gives each endpoint a circuit of its own.
/// `C` judges what is a failure; see [`Classify`](tower_mesh_core::Classify).
#[derive(Clone)]
pub struct BreakerLayer<C> {
    config: BreakerConfig,
    classifier: C,
    circuit: Circuit,
    watching: bool,
    endpoints: Arc<Endpoints>,
    outliers: Option<Outliers>,
}

/// The circuits of endpoints by their key. Weak: a circuit goes with the services of its endpoint.
#[derive(Default)]
struct Endpoints(Mutex<HashMap<u32, Weak<Inner>>>);

impl<C> BreakerLayer<C> {
    /// A closed circuit.
    pub fn new(config: BreakerConfig, classifier: C) -> Self {
        let circuit = Circuit::new(config, clock());
        Self { config, classifier, circuit, watching: false, endpoints: Arc::default(), outliers: None }
    }

    /// The layer for one endpoint: its circuit shows in the endpoint's availability, and a refusal is the balancer's to handle, which picks another.
    ///
    /// Asked twice for one endpoint, by two stacks that share this layer, it gives the same circuit.
    pub fn watching(&self, endpoint: &EndpointHandle) -> Self
    where
        C: Clone,
    {
        let mut endpoints = self.endpoints.lock();
        let known = endpoints.get(&endpoint.key()).and_then(Circuit::upgrade);
        let circuit = known.unwrap_or_else(|| {
            endpoints.retain(|_, circuit| circuit.strong_count() > 0);
            let member = self.outliers.as_ref().map(|outliers| outliers.member(endpoint));
            let circuit = Circuit::of_member(self.config, clock(), endpoint.clone(), member);
            endpoints.insert(endpoint.key(), circuit.downgrade());
            circuit
        });
        drop(endpoints);
        Self {
            config: self.config,
            classifier: self.classifier.clone(),
            circuit,
            watching: true,
            endpoints: self.endpoints.clone(),
            outliers: self.outliers.clone(),
        }
    }

    /// What the circuits of endpoints hear of is also counted for this set, which ejects those of them that are outliers among their peers: for a stack with
    /// both there is no second layer. A circuit that is disabled still counts there. Endpoints that are watched already are not in the set.
    pub fn ejecting(self, outliers: &Outliers) -> Self {
        Self { outliers: Some(outliers.clone()), ..self }
    }

    /// The same circuits, with another judgement on what is a failure.
    pub fn classify<C2>(self, classifier: C2) -> BreakerLayer<C2> {
        BreakerLayer {
            config: self.config,
            classifier,
            circuit: self.circuit,
            watching: self.watching,
            endpoints: self.endpoints,
            outliers: self.outliers,
        }
    }

    /// The circuit of this layer: of the one endpoint, if it watches one.
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// The circuits of all endpoints watched through this layer, in no order.
    pub fn circuits(&self) -> Vec<Circuit> {
        self.endpoints.lock().values().filter_map(Circuit::upgrade).collect()
    }
}

impl Endpoints {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Weak<Inner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(breaker.endpoints.lock().len() <= 2);
        assert_eq!(kept.circuit().state(), State::Closed);
    }
}
