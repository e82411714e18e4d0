use std::sync::Arc;

use tower_mesh_core::{EndpointHandle, Probe};

use crate::config::HealthConfig;
use crate::guard::GuardLayer;
use crate::prober::{Prober, clock};
use crate::probes::ProbeCounts;
use crate::registry::Shared;
use crate::status::EndpointHealth;
use crate::watch::WatchLayer;

/// Has endpoints checked for as long as they exist. Cheap to clone; all clones share one [`Prober`].
///
/// ```
/// use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
/// use tower_mesh_core::EndpointHandle;
/// use tower_mesh_health::{HealthConfig, HealthLayer};
///
/// struct Always;
/// impl Probe for Always {
///     async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> { Ok(Probed::Healthy) }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (health, prober) = HealthLayer::new(HealthConfig::default(), Always);
/// let prober = tokio::spawn(prober);
/// // … health.watching(&endpoint), health.guarding(&endpoint) …
/// drop(health);
/// prober.await.unwrap(); // It ends with the last clone and the last endpoint watched.
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HealthLayer {
    owner: Arc<Owner>,
}

impl HealthLayer {
    /// A layer and the prober that does its work. Nothing runs until the prober is spawned or polled; until then every endpoint is
    /// unknown, which keeps no traffic away.
    pub fn new(config: HealthConfig, probe: impl Probe) -> (Self, Prober) {
        let shared = Arc::new(Shared::new(config));
        let prober = Prober::new(shared.clone(), probe);
        let owner = Arc::new(Owner { shared });
        (Self { owner }, prober)
    }

    /// Has `endpoint` checked from now on until its record goes (discovery has taken it out and its calls have ended) or the prober ends.
    /// The verdict goes into the endpoint's availability, which a balancer reads.
    ///
    /// The layer given back is for the endpoint's stack inside that balancer. It adds nothing to the service, and dropping it ends nothing.
    /// Asked twice for one endpoint, it is checked once. Endpoints watched by several health layers are checked by each; they share one
    /// availability, in which the latest word counts.
    pub fn watching(&self, endpoint: &EndpointHandle) -> WatchLayer {
        self.owner.shared.register(endpoint, clock()).attach_to(endpoint);
        WatchLayer::new()
    }

    /// A layer around a service with one target, to stand alone: while the endpoint is down, calls are refused with
    /// [`Unhealthy`](crate::Unhealthy) before they reach the inner service. It keeps `endpoint` and has it checked while the layer or any
    /// service it made is there.
    pub fn guarding(&self, endpoint: &EndpointHandle) -> GuardLayer {
        GuardLayer::new(endpoint.clone(), self.owner.shared.register(endpoint, clock()))
    }

    /// What the checks say of every endpoint watched now, in the order of their ids.
    pub fn status(&self) -> Vec<EndpointHealth> {
        self.owner.shared.status()
    }

    /// How many checks have ended since the start, by what they said.
    pub fn probes(&self) -> ProbeCounts {
        self.owner.shared.probes.counts()
    }

    /// The configuration in use.
    pub fn config(&self) -> HealthConfig {
        *self.owner.shared.config.snapshot()
    }

    /// Replaces the configuration. Checks under way keep their timeout, counts stay, and an endpoint is checked no later than its new interval
    /// from now.
    pub fn reload(&self, config: HealthConfig) {
        self.owner.shared.config.reload(config);
        self.owner.shared.prober.wake();
    }
}

/// Tells the prober when the last clone of the layer is gone.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}
