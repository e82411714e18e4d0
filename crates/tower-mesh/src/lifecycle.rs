//! Starting and stopping: what runs, and in which order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_mesh_core::{BoxError, ServiceName};
use tower_mesh_discovery::DiscoveryState;

use crate::part::{Component, Part};
use crate::status::MeshState;

/// The mesh's state and the tasks it owns.
pub(crate) struct Lifecycle {
    state: AtomicU8,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lifecycle {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU8::new(MeshState::Built as u8),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> MeshState {
        MeshState::from_u8(self.state.load(Ordering::Acquire))
    }

    fn go(&self, from: MeshState, to: MeshState) -> Result<(), MeshState> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(MeshState::from_u8)
    }

    fn run(&self, part: &Part, component: Component) {
        for work in part.take_work(component) {
            let stop = self.stop.clone();
            self.tasks.spawn(async move { stop.run_until_cancelled(work.future).await });
        }
    }

    /// Starts everything in order: discovery and what looks over its endpoints, and when every required service is resolved, health. (Circuits need no work in
    /// the background.)
    pub(crate) async fn start(
        &self,
        parts: &BTreeMap<ServiceName, Arc<Part>>,
        timeout: Duration,
    ) -> Result<(), StartError> {
        self.go(MeshState::Built, MeshState::Starting).map_err(StartError::not_built)?;
        for part in parts.values() {
            self.run(part, Component::Discovery);
            self.run(part, Component::Outlier);
        }
        let deadline = tokio::time::Instant::now() + timeout;
        for part in parts.values().filter(|part| part.required) {
            if let Err(error) = resolved(part, deadline, timeout).await {
                self.end().await;
                return Err(error);
            }
        }
        for part in parts.values() {
            self.run(part, Component::Health);
        }
        // Somebody may have shut it down meanwhile: then it stays so.
        self.go(MeshState::Starting, MeshState::Running).map_err(StartError::not_built)
    }

    /// Takes no more calls, waits for those under way for at most `grace`, then ends every task and waits for it.
    pub(crate) async fn shutdown(
        &self,
        parts: &BTreeMap<ServiceName, Arc<Part>>,
        grace: Duration,
    ) -> ShutdownReport {
        /// How often the calls under way are counted while draining.
        const LOOK_EVERY: Duration = Duration::from_millis(10);

        self.state.store(MeshState::Stopping as u8, Ordering::Release);
        let in_flight = || -> u64 {
            let statuses = parts.values().map(|part| part.discovery.status());
            statuses.flat_map(|status| status.endpoints).map(|endpoint| endpoint.counts().in_flight()).sum()
        };
        let deadline = tokio::time::Instant::now() + grace;
        while in_flight() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep_until((tokio::time::Instant::now() + LOOK_EVERY).min(deadline)).await;
        }
        let cut_off = in_flight();
        let tasks = self.tasks.len();
        self.end().await;
        ShutdownReport { cut_off, tasks }
    }

    async fn end(&self) {
        self.state.store(MeshState::Stopping as u8, Ordering::Release);
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.state.store(MeshState::Stopped as u8, Ordering::Release);
    }
}

/// Waits until `part` is resolved.
async fn resolved(part: &Part, deadline: tokio::time::Instant, timeout: Duration) -> Result<(), StartError> {
    let failed = |source: BoxError| StartError {
        component: Component::Discovery.as_str(),
        service: Some(part.name.clone()),
        source: Some(source),
    };
    match tokio::time::timeout_at(deadline, part.discovery.answered()).await {
        Ok(status) if status.state == DiscoveryState::NotFound => {
            Err(failed("the source knows no such service".into()))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(failed(match part.discovery.status().last_error {
            Some(error) => error.into(),
            None => format!("no answer within {timeout:?}").into(),
        })),
    }
}

/// A mesh that could not be started. Whatever had been started was stopped again.
#[derive(Debug)]
pub struct StartError {
    component: &'static str,
    service: Option<ServiceName>,
    source: Option<BoxError>,
}

impl StartError {
    fn not_built(state: MeshState) -> Self {
        Self { component: "mesh", service: None, source: Some(format!("it is {state} already").into()) }
    }

    /// The component that failed: `discovery`, or `mesh` if it had been started before.
    pub fn component(&self) -> &str {
        self.component
    }

    /// The service whose component failed.
    pub fn service(&self) -> Option<&ServiceName> {
        self.service.as_ref()
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start {}", self.component)?;
        if let Some(service) = &self.service {
            write!(f, " of service {service}")?;
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Calls still under way when the grace was over. They are not dropped: their futures are their callers'. Nothing is picked for them any more.
    pub cut_off: u64,
    /// Background tasks that were ended and waited for.
    pub tasks: usize,
}
