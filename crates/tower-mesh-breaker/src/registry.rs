//! Circuits by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tower_mesh_core::Listeners;

use crate::circuit::{Circuit, CircuitEvent, Family};
use crate::config::BreakerConfig;
use crate::layer::BreakerLayer;
use crate::service::clock;

/// The circuits of a program by their names, with one configuration for all and others for some. Cheap to clone; clones are the same registry.
///
/// A circuit is made when its name is first asked for, and stays. Names are the program's: for what comes with requests there is
/// [`BreakerLayer::keyed`], which forgets.
///
/// ```
/// use tower_mesh_breaker::{BreakerConfig, Breakers};
/// let breakers = Breakers::new(BreakerConfig::default());
/// let strict = BreakerConfig::builder().consecutive_failures(2).build()?;
/// breakers.reload(BreakerConfig::default(), [("payments".to_owned(), strict)]);
/// assert_eq!(breakers.circuit("payments").config().consecutive_failures(), 2);
/// assert_eq!(breakers.circuit("users").config(), BreakerConfig::default());
/// assert_eq!(breakers.list().len(), 2);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Clone)]
pub struct Breakers(Arc<Shared>);

struct Shared {
    registry: Mutex<Registry>,
    listeners: Arc<Listeners<CircuitEvent>>,
}

struct Registry {
    defaults: BreakerConfig,
    overrides: BTreeMap<String, BreakerConfig>,
    circuits: BTreeMap<Arc<str>, Circuit>,
}

impl Registry {
    fn config(&self, name: &str) -> BreakerConfig {
        self.overrides.get(name).copied().unwrap_or(self.defaults)
    }
}

impl Breakers {
    /// None yet; those to come go by `defaults`.
    pub fn new(defaults: BreakerConfig) -> Self {
        let registry = Registry { defaults, overrides: BTreeMap::new(), circuits: BTreeMap::new() };
        Self(Arc::new(Shared { registry: Mutex::new(registry), listeners: Arc::default() }))
    }

    /// The circuit called `name`, which is made, closed, if there is none.
    pub fn circuit(&self, name: &str) -> Circuit {
        let made = {
            let mut registry = self.lock();
            if let Some(known) = registry.circuits.get(name) {
                return known.clone();
            }
            let name: Arc<str> = name.into();
            let family = Family { name: Some(name.clone()), listeners: self.0.listeners.clone() };
            let circuit =
                Circuit::build(registry.config(&name).into(), clock(), Arc::new(family), None, None);
            registry.circuits.insert(name, circuit.clone());
            circuit
        };
        made.announced()
    }

    /// A layer around the circuit called `name`.
    pub fn layer<C>(&self, name: &str, classifier: C) -> BreakerLayer<C> {
        BreakerLayer::around(self.circuit(name), classifier)
    }

    /// The circuit called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<Circuit> {
        self.lock().circuits.get(name).cloned()
    }

    /// All of them, in the order of their names.
    pub fn list(&self) -> Vec<(Arc<str>, Circuit)> {
        self.lock().circuits.iter().map(|(name, circuit)| (name.clone(), circuit.clone())).collect()
    }

    /// Goes by `defaults` from now on, and for the names among `overrides` by those. See [`Circuit::reload`] for what stays of each circuit; one whose
    /// configuration is the same is not touched.
    pub fn reload(
        &self,
        defaults: BreakerConfig,
        overrides: impl IntoIterator<Item = (String, BreakerConfig)>,
    ) {
        let overrides = overrides.into_iter().collect();
        let circuits: Vec<_> = {
            let mut registry = self.lock();
            registry.defaults = defaults;
            registry.overrides = overrides;
            let registry = &*registry;
            let configs =
                registry.circuits.iter().map(|(name, circuit)| (circuit.clone(), registry.config(name)));
            configs.collect()
        };
        for (circuit, config) in circuits {
            if circuit.config() != config {
                circuit.reload(config, clock());
            }
        }
    }

    /// Tells `listener` of every transition of every circuit here, also of those to come. See [`Circuit::on_transition`].
    pub fn on_transition(&self, listener: impl Fn(&CircuitEvent) + Send + Sync + 'static) {
        self.0.listeners.add(listener);
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Breakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.list()).finish()
    }
}
