//! How long the mesh takes to put a bad endpoint out and to bring it back, read off its status.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};
use tower_mesh::core::EndpointId;
use tower_mesh::{EndpointStatus, Mesh};

/// How often the status is read.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One fault, as the mesh met it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outage {
    pub(crate) fault: &'static str,
    /// Seconds from the fault until no ordinary call goes to the endpoint any more; none if that did not happen.
    pub(crate) eject_s: Option<f64>,
    /// Seconds from the recovery (or from discovery's naming the replacement) until it serves calls with a closed circuit; none if
    /// that did not happen.
    pub(crate) readmit_s: Option<f64>,
    #[serde(skip)]
    began: Instant,
    #[serde(skip)]
    bad: EndpointId,
    #[serde(skip)]
    recovery: Option<Recovery>,
}

#[derive(Debug, Clone)]
struct Recovery {
    at: Instant,
    good: EndpointId,
    /// Calls that had succeeded before.
    succeeded: u64,
}

/// Watches one mesh.
pub(crate) struct Watch {
    outages: Arc<Mutex<Vec<Outage>>>,
    mesh: Mesh,
    looking: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(mesh: Mesh, length: Duration) -> Self {
        let outages = Arc::new(Mutex::new(Vec::new()));
        let (seen, watched) = (outages.clone(), mesh.clone());
        #[expect(clippy::disallowed_methods, reason = "joined by finish")]
        let looking = tokio::task::spawn(async move {
            let end = Instant::now() + length;
            let mut due = interval(LOOK_EVERY);
            while due.tick().await < end {
                let endpoints = endpoints(&watched);
                for outage in lock(&seen).iter_mut() {
                    look(outage, &endpoints);
                }
            }
        });
        Self { outages, mesh, looking }
    }

    /// A fault begins at `bad`.
    pub(crate) fn begin(&self, fault: &'static str, bad: EndpointId) {
        let outage =
            Outage { fault, eject_s: None, readmit_s: None, began: Instant::now(), bad, recovery: None };
        lock(&self.outages).push(outage);
    }

    /// The latest fault is over, and `good` can serve again.
    pub(crate) fn recover(&self, good: EndpointId) {
        let endpoints = endpoints(&self.mesh);
        let succeeded = find(&endpoints, &good).map_or(0, |endpoint| endpoint.succeeded);
        if let Some(outage) = lock(&self.outages).last_mut() {
            outage.recovery = Some(Recovery { at: Instant::now(), good, succeeded });
        }
    }

    /// The fault that goes on now.
    pub(crate) fn current(&self) -> Option<(&'static str, String)> {
        let outages = lock(&self.outages);
        let last = outages.last().filter(|outage| outage.recovery.is_none())?;
        Some((last.fault, last.bad.to_string()))
    }

    pub(crate) async fn finish(self) -> Vec<Outage> {
        self.looking.await.expect("the watch does not panic");
        lock(&self.outages).clone()
    }
}

fn look(outage: &mut Outage, endpoints: &[EndpointStatus]) {
    if outage.eject_s.is_none() {
        let out = find(endpoints, &outage.bad).is_none_or(|endpoint| !endpoint.available);
        outage.eject_s = out.then(|| outage.began.elapsed().as_secs_f64());
    }
    let Some(recovery) = &outage.recovery else { return };
    if outage.readmit_s.is_none() {
        let back = find(endpoints, &recovery.good).is_some_and(|endpoint| {
            let closed = endpoint.circuit.as_ref().is_some_and(|circuit| circuit.state == "closed");
            endpoint.available && closed && endpoint.succeeded > recovery.succeeded
        });
        outage.readmit_s = back.then(|| recovery.at.elapsed().as_secs_f64());
    }
}

fn find<'a>(endpoints: &'a [EndpointStatus], id: &EndpointId) -> Option<&'a EndpointStatus> {
    endpoints.iter().find(|endpoint| endpoint.id == id.as_str())
}

fn endpoints(mesh: &Mesh) -> Vec<EndpointStatus> {
    mesh.status().services.into_iter().flat_map(|service| service.endpoints).collect()
}

fn lock(outages: &Mutex<Vec<Outage>>) -> std::sync::MutexGuard<'_, Vec<Outage>> {
    outages.lock().unwrap_or_else(PoisonError::into_inner)
}
