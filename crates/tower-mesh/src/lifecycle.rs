//! Starting and stopping: what runs, and in which order.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_mesh_core::{BoxError, Operation, ServiceName};
use tower_mesh_discovery::DiscoveryState;

use crate::components::{ComponentState, ComponentStatus, Components};
use crate::error::{Error, ErrorKind};
use crate::events::{EventKind, EventSink, Events, Publisher, feed};
use crate::mesh::WeakMesh;
use crate::observer::observe;
use crate::part::{Component, Part};
use crate::status::MeshState;

/// The mesh's state and the tasks it owns.
pub(crate) struct Lifecycle {
    state: AtomicU8,
    tasks: TaskTracker,
    stop: CancellationToken,
    events: Publisher,
    /// Listening since the mesh was built; they go to `listening` when it starts.
    sinks: Mutex<Vec<(Events, EventSink)>>,
    listening: TaskTracker,
    /// What looks at the mesh once a second.
    watching: TaskTracker,
    components: Components,
    /// Gone once nobody has the mesh any more, or a service of it: then its work ends by itself.
    alive: Arc<()>,
}

impl Lifecycle {
    pub(crate) fn new(events: Publisher, sinks: Vec<EventSink>) -> Self {
        let sinks = sinks.into_iter().map(|sink| (events.subscribe(), sink)).collect();
        Self {
            state: AtomicU8::new(MeshState::Built as u8),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events,
            sinks: Mutex::new(sinks),
            listening: TaskTracker::new(),
            watching: TaskTracker::new(),
            components: Components::default(),
            alive: Arc::default(),
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> MeshState {
        MeshState::from_u8(self.state.load(Ordering::Acquire))
    }

    pub(crate) fn events(&self) -> &Publisher {
        &self.events
    }

    pub(crate) fn components(&self) -> Vec<ComponentStatus> {
        self.components.status()
    }

    fn go(&self, from: MeshState, to: MeshState) -> Result<(), MeshState> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(MeshState::from_u8)
    }

    fn run(&self, part: &Part, component: Component) {
        for work in part.take_work(component) {
            let (stop, events, name) = (self.stop.clone(), self.events.clone(), part.name.clone());
            let alive = Arc::downgrade(&self.alive);
            let component = component.as_str();
            self.components.is(&part.name, component, ComponentState::Running);
            let components = self.components.clone();
            self.events.tell(Some(&part.name), || EventKind::ComponentStarted { component });
            self.tasks.spawn(async move {
                let work = AssertUnwindSafe(work.future).catch_unwind();
                if let Some(ended) = stop.run_until_cancelled(work).await
                    && alive.strong_count() > 0
                {
                    let error = if ended.is_ok() { "it ended" } else { "it panicked" };
                    tracing::error!(service = name.as_str(), component, error, "component failed");
                    components.is(&name, component, ComponentState::Failed);
                    events
                        .tell(Some(&name), || EventKind::ComponentFailed { component, error: error.into() });
                }
            });
        }
    }

    /// Whether calls are taken.
    #[inline]
    pub(crate) fn admit(&self, service: &ServiceName, operation: Option<Operation>) -> Result<(), Error> {
        let kind = match self.state() {
            MeshState::Starting | MeshState::Running => return Ok(()),
            MeshState::Built => ErrorKind::NotStarted,
            MeshState::Stopping | MeshState::Stopped => ErrorKind::ShuttingDown,
        };
        Err(Error::new(kind, service.as_str(), operation))
    }

    /// Starts everything in order: discovery and what looks over its endpoints, and when every required service is resolved, health. (Circuits need no work in
    /// the background.)
    pub(crate) async fn start(
        &self,
        parts: &BTreeMap<ServiceName, Arc<Part>>,
        timeout: Duration,
        mesh: WeakMesh,
    ) -> Result<(), StartError> {
        self.go(MeshState::Built, MeshState::Starting).map_err(StartError::not_built)?;
        let sinks = std::mem::take(&mut *self.sinks.lock().unwrap_or_else(PoisonError::into_inner));
        for (events, sink) in sinks {
            self.listening.spawn(feed(events, sink));
        }
        self.events.tell(None, || EventKind::Starting);
        self.watching.spawn(observe(mesh, self.stop.clone()));
        for part in parts.values() {
            self.run(part, Component::Discovery);
            self.run(part, Component::Outlier);
        }
        let required = parts.values().filter(|part| part.required);
        let resolved = try_join_all(required.map(|part| resolved(part, timeout)));
        if let Some(Err(error)) = self.stop.run_until_cancelled(resolved).await {
            self.events.tell(error.service(), || EventKind::ComponentFailed {
                component: error.component,
                error: error.source.as_ref().map(ToString::to_string).unwrap_or_default(),
            });
            self.end(0).await;
            return Err(error);
        }
        // Somebody may shut it down meanwhile: then it stays so, and no more is started.
        if self.state() == MeshState::Starting {
            for part in parts.values() {
                self.run(part, Component::Health);
            }
        }
        self.go(MeshState::Starting, MeshState::Running).map_err(StartError::not_built)?;
        self.events.tell(None, || EventKind::Started);
        Ok(())
    }

    /// Takes no more calls, waits for those under way for at most `grace`, then ends every task and waits for it.
    pub(crate) async fn shutdown(
        &self,
        parts: &BTreeMap<ServiceName, Arc<Part>>,
        grace: Duration,
    ) -> ShutdownReport {
        /// How often the calls under way are counted while draining.
        const LOOK_EVERY: Duration = Duration::from_millis(10);

        self.take_no_more();
        let under_way = || -> u64 { parts.values().map(|part| part.under_way()).sum() };
        let drained = async {
            while under_way() > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let cut_off = match tokio::time::timeout(grace, drained).await {
            Ok(()) => 0,
            Err(_) => under_way(),
        };
        let tasks = self.tasks.len();
        self.end(cut_off).await;
        ShutdownReport { cut_off, tasks }
    }

    fn take_no_more(&self) {
        let before = self.state.fetch_max(MeshState::Stopping as u8, Ordering::AcqRel);
        if before < MeshState::Stopping as u8 {
            self.events.tell(None, || EventKind::ShuttingDown);
        }
    }

    async fn end(&self, cut_off: u64) {
        self.take_no_more();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.watching.close();
        self.watching.wait().await;
        self.components.all_stopped();
        let before = self.state.fetch_max(MeshState::Stopped as u8, Ordering::AcqRel);
        if before < MeshState::Stopped as u8 {
            self.events.tell(None, || EventKind::Stopped { cut_off });
        }
        // That was the last they hear.
        self.listening.close();
        self.listening.wait().await;
    }
}

/// Waits until `part` is resolved.
async fn resolved(part: &Part, timeout: Duration) -> Result<(), StartError> {
    let failed = |source: BoxError| StartError {
        component: Component::Discovery.as_str(),
        service: Some(part.name.clone()),
        source: Some(source),
    };
    match tokio::time::timeout(timeout, part.discovery.answered()).await {
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
    /// Calls still under way when the grace was over, those included that wait between attempts or whose response body is still being read. They are
    /// not dropped: their futures are their callers', and go on with the endpoints that were known last. If a service has calls of both
    /// kinds, at least the greater number of them.
    pub cut_off: u64,
    /// Background tasks of services that were ended and waited for.
    pub tasks: usize,
}
