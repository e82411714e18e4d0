//! Starting and stopping: what runs, and in which order.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_mesh_core::{BoxError, Operation, ServiceName};
use tower_mesh_discovery::DiscoveryState;

use crate::components::{ComponentState, ComponentStatus, Components};
use crate::error::{Error, ErrorKind};
use crate::events::{EventKind, EventSink, Events, Publisher, feed};
use crate::mesh::{Parts, WeakMesh};
use crate::observer::observe;
use crate::part::{Component, Part};
use crate::status::MeshState;

/// The mesh's state and the tasks it owns.
pub(crate) struct Lifecycle {
    state: AtomicU8,
    tasks: TaskTracker,
    stop: CancellationToken,
    changed: Notify,
    farewells: Mutex<Vec<Farewell>>,
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

/// What is to be done before the mesh goes, such as to take oneself out of a registry.
pub(crate) type Farewell = BoxFuture<'static, ()>;

impl Lifecycle {
    pub(crate) fn new(events: Publisher, sinks: Vec<EventSink>, farewells: Vec<Farewell>) -> Self {
        let sinks = sinks.into_iter().map(|sink| (events.subscribe(), sink)).collect();
        Self {
            state: AtomicU8::new(MeshState::Built as u8),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            changed: Notify::new(),
            farewells: Mutex::new(farewells),
            events,
            sinks: Mutex::new(sinks),
            listening: TaskTracker::new(),
            watching: TaskTracker::new(),
            components: Components::default(),
            alive: Arc::default(),
        }
    }

    /// Waits until it runs; whether it does, and is not on its way to its end.
    pub(crate) async fn running(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on a change is heard, so looking cannot miss one.
            changed.as_mut().enable();
            match self.state() {
                MeshState::Built | MeshState::Starting => changed.await,
                state => return state == MeshState::Running,
            }
        }
    }

    fn farewells(&self) -> MutexGuard<'_, Vec<Farewell>> {
        self.farewells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what a service had running.
    pub(crate) fn forget(&self, service: &ServiceName) {
        self.components.forget(service);
    }

    /// Whether this has changed it.
    fn no_sooner(&self, state: MeshState) -> bool {
        let before = self.state.fetch_max(state as u8, Ordering::AcqRel);
        self.changed.notify_waiters();
        before < state as u8
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
            .map(|_| self.changed.notify_waiters())
            .map_err(MeshState::from_u8)
    }

    /// Runs all work of a service that joins a mesh which has started.
    pub(crate) fn run_all(&self, part: &Part) {
        if matches!(self.state(), MeshState::Starting | MeshState::Running) {
            for component in
                [Component::Discovery, Component::Credentials, Component::Outlier, Component::Health]
            {
                self.run(part, component);
            }
        }
    }

    /// Runs work that belongs to no service, until the shutdown.
    #[cfg(feature = "file")]
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    }

    fn run(&self, part: &Part, component: Component) {
        for work in part.take_work(component) {
            let (stop, leave) = (self.stop.clone(), part.stop.clone());
            let (events, name) = (self.events.clone(), part.name.clone());
            let alive = Arc::downgrade(&self.alive);
            let component = component.as_str();
            self.components.is(&part.name, component, ComponentState::Running);
            let components = self.components.clone();
            self.events.tell(Some(&part.name), || EventKind::ComponentStarted { component });
            self.tasks.spawn(async move {
                let work = AssertUnwindSafe(work.future).catch_unwind();
                if let Some(Some(ended)) = stop.run_until_cancelled(leave.run_until_cancelled(work)).await
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
    pub(crate) fn admit(&self, part: &Part, operation: Option<Operation>) -> Result<(), Error> {
        let kind = match self.state() {
            MeshState::Starting | MeshState::Running => return part.admit(operation),
            MeshState::Built => ErrorKind::NotStarted,
            MeshState::Stopping | MeshState::Stopped => ErrorKind::ShuttingDown,
        };
        Err(Error::new(kind, part.name.as_str(), operation))
    }

    /// Starts everything in order: discovery, what looks over its endpoints and what keeps credentials fresh, and when every required service is resolved, health. (Circuits need no work in
    /// the background.)
    pub(crate) async fn start(
        &self,
        parts: impl FnOnce() -> Arc<Parts>,
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
        // Only now: a service that is added later is started by who adds it.
        let parts = parts();
        for part in parts.values() {
            self.run(part, Component::Discovery);
            self.run(part, Component::Credentials);
            self.run(part, Component::Outlier);
        }
        let required = parts.values().filter(|part| part.config().required);
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
    pub(crate) async fn shutdown(&self, under_way: impl Fn() -> u64, grace: Duration) -> ShutdownReport {
        /// How often the calls under way are counted while draining.
        const LOOK_EVERY: Duration = Duration::from_millis(10);

        self.take_no_more();
        let farewells = Farewells::of(self);
        let drained = async {
            while under_way() > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let (drained, unsaid) = join(tokio::time::timeout(grace, drained), farewells.within(grace)).await;
        let cut_off = if drained.is_ok() { 0 } else { under_way() };
        let tasks = self.tasks.len();
        self.end(cut_off).await;
        ShutdownReport { cut_off, tasks, unsaid }
    }

    fn take_no_more(&self) {
        if self.no_sooner(MeshState::Stopping) {
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
        if self.no_sooner(MeshState::Stopped) {
            self.events.tell(None, || EventKind::Stopped { cut_off });
        }
        // That was the last they hear.
        self.listening.close();
        self.listening.wait().await;
    }
}

/// What is being said; what is not when this is dropped is said at the next shutdown.
struct Farewells<'a> {
    lifecycle: &'a Lifecycle,
    left: FuturesUnordered<Farewell>,
}

impl<'a> Farewells<'a> {
    fn of(lifecycle: &'a Lifecycle) -> Self {
        Self { lifecycle, left: std::mem::take(&mut *lifecycle.farewells()).into_iter().collect() }
    }

    /// How many were not said in this time, or panicked.
    async fn within(mut self, grace: Duration) -> usize {
        let mut panicked = 0;
        let all = async {
            loop {
                // One that panics does not keep the others, nor the shutdown, from their end.
                match AssertUnwindSafe(self.left.next()).catch_unwind().await {
                    Ok(Some(())) => {}
                    Ok(None) => break,
                    Err(_) => panicked += 1,
                }
            }
        };
        let _ = tokio::time::timeout(grace, all).await;
        let late = std::mem::take(&mut self.left).len();
        panicked + late
    }
}

impl Drop for Farewells<'_> {
    fn drop(&mut self) {
        self.lifecycle.farewells().extend(std::mem::take(&mut self.left));
    }
}

/// Waits until `part` is resolved, or taken out.
async fn resolved(part: &Part, timeout: Duration) -> Result<(), StartError> {
    let failed = |source: BoxError| StartError {
        component: Component::Discovery.as_str(),
        service: Some(part.name.clone()),
        source: Some(source),
    };
    let answered = part.stop.run_until_cancelled(tokio::time::timeout(timeout, part.discovery.answered()));
    let Some(answered) = answered.await else { return Ok(()) };
    match answered {
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
    /// What was to be done [at the shutdown](crate::MeshBuilder::at_shutdown) and was not done when the grace was over. It was dropped.
    pub unsaid: usize,
}
