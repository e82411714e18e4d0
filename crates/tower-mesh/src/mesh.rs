//! The integrator: services by name, their lifecycle, and one status over all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tower_mesh_breaker::Circuit;
use tower_mesh_core::{BoxError, Operation, ServiceName};
use tower_service::Service;

use crate::builder::MeshBuilder;
use crate::call::{self, MeshRequest, Registry};
use crate::config::{Config, ConfigError};
use crate::error::{Error, ErrorKind};
use crate::events::{Events, Publisher};
use crate::lifecycle::{Lifecycle, ShutdownReport, StartError};
use crate::part::Part;
use crate::readiness::Readiness;
use crate::reload::{Reloaded, Reloads};
use crate::service::ServiceHandle;
use crate::status::{MeshState, MeshStatus};
use crate::under_way::{Counted, UnderWay};

/// The services there are.
pub(crate) type Parts = BTreeMap<ServiceName, Arc<Part>>;

/// A mesh of services, of any number of request types. Clones are the same mesh.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

pub(crate) struct Inner {
    /// Goes first: what ends with the parts is then no failure.
    lifecycle: Arc<Lifecycle>,
    /// Ends what looks at it.
    gone: CancellationToken,
    /// Replaced as a whole by a reload.
    parts: ArcSwap<Parts>,
    pub(crate) reloads: Reloads,
    registry: Registry,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// A mesh that may be gone.
pub(crate) struct WeakMesh {
    inner: Weak<Inner>,
    /// Cancelled with it.
    pub(crate) gone: CancellationToken,
}

impl WeakMesh {
    pub(crate) fn upgrade(&self) -> Option<Mesh> {
        self.inner.upgrade().map(Mesh)
    }
}

impl Mesh {
    /// Starts to put one together.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    pub(crate) fn new(parts: Parts, reloads: Reloads, lifecycle: Lifecycle) -> Self {
        let (lifecycle, parts) = (Arc::new(lifecycle), ArcSwap::from_pointee(parts));
        let (registry, gone) = (Registry::default(), CancellationToken::new());
        Self(Arc::new(Inner { lifecycle, gone, parts, reloads, registry }))
    }

    fn part(&self, name: &str) -> Option<Arc<Part>> {
        self.0.parts.load().get(name).cloned()
    }

    /// A service, to be joined with the client that reaches it.
    ///
    /// # Errors
    /// [`ErrorKind::ServiceNotFound`] when the configuration has no such service.
    pub fn service(&self, name: &str) -> Result<ServiceHandle, Error> {
        match self.part(name) {
            Some(part) => Ok(ServiceHandle::new(part, self.0.lifecycle.clone())),
            None => Err(Error::new(ErrorKind::ServiceNotFound, name, None)),
        }
    }

    /// Makes `service` callable by name for requests of type `Q`; one registered before for that name and type is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::ServiceNotFound`] when the configuration has no such service.
    pub fn register<Q, S>(&self, name: &str, service: S) -> Result<(), Error>
    where
        Q: MeshRequest,
        S: Service<Q, Response = Q::Response> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let not_found = || Error::new(ErrorKind::ServiceNotFound, name, None);
        let part = self.part(name).ok_or_else(not_found)?;
        self.0.registry.register::<Q, S>(part.name.clone(), service);
        Ok(())
    }

    /// Calls an operation of a registered service. Dropping the future abandons the call.
    ///
    /// # Errors
    /// See [`ErrorKind`]; those that say that the call cannot be made at all are answered at once, whatever the state of the mesh.
    pub async fn call<Q: MeshRequest>(
        &self,
        service: &str,
        operation: &str,
        request: Q,
    ) -> Result<Q::Response, Error> {
        let operation = Operation::named(operation);
        let not_found = || Error::new(ErrorKind::ServiceNotFound, service, Some(operation));
        let part = self.part(service).ok_or_else(not_found)?;
        let service = self.0.registry.find::<Q>(&part.name, operation)?;
        self.0.lifecycle.admit(&part, Some(operation))?;

        /// Counts the call out however it ends.
        struct Call<'a>(&'a UnderWay, Option<Counted>);
        impl Drop for Call<'_> {
            fn drop(&mut self) {
                self.1.take().into_iter().for_each(|counted| self.0.end(counted));
            }
        }
        let _call = Call(&part.named_calls, Some(part.named_calls.begin()));
        call::call(service, &part.name, operation, request).await
    }

    /// Starts discovery, waits until every required service is resolved, then starts the probes. Returns when that is done. Calls are taken from
    /// the first moment, and wait for their service to be resolved.
    ///
    /// Dropping the future leaves it as far as it got; [`shutdown`](Self::shutdown) ends that.
    ///
    /// # Errors
    /// When a required service cannot be resolved within the configured `start_timeout`, naming it; what had started is stopped again. When it
    /// has been started or shut down before.
    pub async fn start(&self) -> Result<(), StartError> {
        let inner = &*self.0;
        let mesh = WeakMesh { inner: Arc::downgrade(&self.0), gone: inner.gone.clone() };
        inner.lifecycle.start(|| inner.parts.load_full(), inner.reloads.start_timeout(), mesh).await?;
        #[cfg(feature = "file")]
        if let Some(followed) = inner.reloads.followed() {
            inner.lifecycle.spawn(crate::reload::follow(Arc::downgrade(&self.0), followed.clone()));
        }
        Ok(())
    }

    /// Waits until it has started: whether it has, and is not being shut down instead. Any number may wait; dropping one affects no other.
    pub async fn ready(&self) -> bool {
        self.0.lifecycle.running().await
    }

    /// Takes no more calls, waits up to `grace` for those under way, ends every background task and waits for it.
    ///
    /// A mesh that was shut down is not started again. Dropping the future leaves it without new calls and its tasks as they are; a further call ends them.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        let inner = &*self.0;
        let under_way = || {
            let parts = inner.parts.load();
            let parts = parts.values().map(|part| part.under_way()).sum::<u64>();
            parts + inner.reloads.gone_under_way()
        };
        inner.lifecycle.shutdown(under_way, grace).await
    }

    /// Goes by `config` from now on. It is checked as a whole first: if anything is wrong with it, or cannot change while the mesh runs, nothing changes.
    ///
    /// What is the same stays untouched, with all that was learned. Of a service that has changed, the circuits keep their state and their windows, the
    /// endpoints that stay keep their records, the budget what was put and spent; calls under way go on as they began. A service that is new is started if
    /// the mesh is, and one that is missing takes no more calls ([`ErrorKind::ServiceNotFound`]), while those under way go on.
    ///
    /// A service that comes back after it was missing is another one: handles to the old one stay without it, and what was [registered](Self::register) is to be
    /// registered again.
    ///
    /// Only the restart of the program changes: where a service's endpoints come from, except for a list of them; its `discovery` table; how it is probed;
    /// whether it has a table `health`, `outlier` or `credentials`; and of its budget the ttl, the throttle, and whether it counts by active calls; and `identity`. Secrets of etcd are those it was started with.
    /// `start_timeout` means nothing once it has started.
    ///
    /// Of a mesh that has started it must be called inside tokio's runtime.
    ///
    /// # Errors
    /// Every mistake and every change that cannot be made, with their paths; [`ConfigError::Busy`] when another reload is under way. The old
    /// configuration stays.
    ///
    /// ```
    /// # async fn f(mesh: tower_mesh::Mesh) -> Result<(), tower_mesh::config::ConfigError> {
    /// let reloaded = mesh.reload(tower_mesh::Config::from_path("mesh.toml")?)?;
    /// println!("{} services have changed", reloaded.changed().len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn reload(&self, config: Config) -> Result<Reloaded, ConfigError> {
        self.0.reload(config)
    }

    /// The circuits of all services' endpoints, for reports and for orders: to force one open, to close it, to hear of its transitions.
    pub fn circuits(&self) -> Vec<(ServiceName, Circuit)> {
        let of = |part: &Arc<Part>| {
            let name = part.name.clone();
            part.breaker.circuits().into_iter().map(move |circuit| (name.clone(), circuit))
        };
        self.0.parts.load().values().flat_map(of).collect()
    }

    pub(crate) fn parts(&self) -> Arc<Parts> {
        self.0.parts.load_full()
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        self.0.lifecycle.events()
    }

    /// How far it is.
    pub fn state(&self) -> MeshState {
        self.0.lifecycle.state()
    }

    /// Whether this program should get requests, by what its configuration requires of its services, with reasons: for the endpoint that an orchestrator
    /// asks. Reading it changes nothing and holds up no call.
    ///
    /// An optional service never makes a program unready, nor does an open circuit to a required one, unless the service says `ready_when = "available"`
    /// and no endpoint of it is left.
    pub fn readiness(&self) -> Readiness {
        let parts = self.0.parts.load_full();
        let wanted = parts.values().map(|part| {
            let config = part.config();
            (config.required, config.ready_when)
        });
        Readiness::of(&self.status_of(&parts), wanted)
    }

    /// What happens in the mesh from now on. Any number may listen; none holds up another, or a call.
    pub fn events(&self) -> Events {
        self.0.lifecycle.events().subscribe()
    }

    /// A snapshot of everything. Taking it changes nothing and holds up no call.
    pub fn status(&self) -> MeshStatus {
        self.status_of(&self.0.parts.load_full())
    }

    fn status_of(&self, parts: &Parts) -> MeshStatus {
        let (config, components) = (self.0.reloads.status(), self.0.lifecycle.components());
        MeshStatus::take(self.state(), config, components, parts.values())
    }
}

impl Inner {
    pub(crate) fn reload(&self, config: Config) -> Result<Reloaded, ConfigError> {
        let start = |part: &Part| self.lifecycle.run_all(part);
        let forget = |name: &ServiceName| {
            self.lifecycle.forget(name);
            self.registry.forget(name);
        };
        self.reloads.reload(config, &self.parts, start, forget)
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("state", &self.state())
            .field("services", &self.0.parts.load().keys())
            .finish_non_exhaustive()
    }
}
