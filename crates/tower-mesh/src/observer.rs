//! Looking at the mesh once a second: rates, readiness, metrics. So that none of it is anything that a call does.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tower_mesh_core::{EndpointHandle, Tick};

use crate::events::EventKind;
use crate::mesh::WeakMesh;
use crate::part::Part;
use crate::rates::{History, Rates, Totals};

/// What is learned of a service by looking at it.
#[derive(Default)]
pub(crate) struct Seen(Mutex<History>);

impl Seen {
    fn look(&self, part: &Part, now: Tick) {
        let endpoints = part.discovery.status().endpoints;
        let counts = endpoints.iter().map(|endpoint| (endpoint.key(), endpoint.counts()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sample(now, counts);
        if let Some(calls) = &part.measured {
            calls.turn(now);
        }
    }

    pub(crate) fn rates(&self) -> Rates {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rates()
    }

    #[cfg_attr(
        not(feature = "metrics"),
        expect(dead_code, reason = "only metrics want sums since the start")
    )]
    pub(crate) fn total(&self) -> Totals {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total()
    }
}

const EVERY: Duration = Duration::from_secs(1);

/// Readiness is worked out anew when something has changed, and at least after so many looks: some of it goes by time alone.
const READINESS_EVERY: u32 = 10;

/// Looks until `stop`, and once more then. Ends with the mesh.
pub(crate) async fn observe(mesh: WeakMesh, stop: CancellationToken) {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut readiness = Change::default();
    #[cfg(feature = "metrics")]
    let mut metering = crate::metering::Metering::new();
    loop {
        let waited = mesh.gone.run_until_cancelled(stop.run_until_cancelled(every.tick())).await;
        let (Some(ticked), Some(mesh)) = (waited, mesh.upgrade()) else { return };
        let stopped = ticked.is_none();
        let now = Tick::of(tokio::time::Instant::now().into_std());
        let parts = mesh.parts();
        for part in parts.values() {
            part.seen.look(part, now);
        }
        #[cfg(feature = "metrics")]
        metering.publish(&parts, now);
        let versions = parts.values().map(|part| part.discovery.status().version).sum();
        if readiness.may_have_happened((mesh.state() as u8, EndpointHandle::changes(), versions)) {
            let is = mesh.readiness();
            if readiness.is_new(is.ready) {
                let kind = || EventKind::ReadinessChanged { ready: is.ready, reasons: is.reasons };
                mesh.publisher().tell(None, kind);
            }
        }
        if stopped {
            return;
        }
    }
}

/// Whether the program was ready when last looked at, and what that was seen by.
#[derive(Default)]
struct Change {
    ready: Option<bool>,
    seen: Option<(u8, u64, u64)>,
    since: u32,
}

impl Change {
    fn may_have_happened(&mut self, seen: (u8, u64, u64)) -> bool {
        self.since += 1;
        if self.seen == Some(seen) && self.since < READINESS_EVERY {
            return false;
        }
        (self.seen, self.since) = (Some(seen), 0);
        true
    }

    fn is_new(&mut self, ready: bool) -> bool {
        self.ready.replace(ready) != Some(ready)
    }
}
