//! The background work of a mesh, as status shows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tower_mesh_core::ServiceName;

/// How a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ComponentState {
    /// It runs.
    Running,
    /// It came to an end that it should not have.
    Failed,
    /// It was ended with the mesh.
    Stopped,
}

/// Background work of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ComponentStatus {
    /// Whose.
    pub service: String,
    /// `discovery`, `credentials`, `outlier` or `health`.
    pub component: &'static str,
    /// How it is.
    pub state: ComponentState,
}

/// All of them, from when they were started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Components(Arc<Mutex<BTreeMap<(String, &'static str), ComponentState>>>);

impl Components {
    pub(crate) fn is(&self, service: &ServiceName, component: &'static str, state: ComponentState) {
        self.lock().insert((service.to_string(), component), state);
    }

    /// The service is taken out, and its work with it.
    pub(crate) fn forget(&self, service: &ServiceName) {
        self.lock().retain(|(name, _), _| name != service.as_str());
    }

    pub(crate) fn all_stopped(&self) {
        for state in self.lock().values_mut().filter(|state| **state == ComponentState::Running) {
            *state = ComponentState::Stopped;
        }
    }

    pub(crate) fn status(&self) -> Vec<ComponentStatus> {
        let known = self.lock();
        let status = known.iter().map(|((service, component), state)| ComponentStatus {
            service: service.clone(),
            component,
            state: *state,
        });
        status.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, &'static str), ComponentState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
