//! The integrator: services by name, their lifecycle, and one status over all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tower_mesh_core::{BoxError, Operation, ServiceName};
use tower_service::Service;

use crate::builder::MeshBuilder;
use crate::call::{self, MeshRequest, Registry};
use crate::error::{Error, ErrorKind};
use crate::events::{EventSink, Events, Publisher};
use crate::lifecycle::{Lifecycle, ShutdownReport, StartError};
use crate::part::Part;
use crate::readiness::Readiness;
use crate::service::ServiceHandle;
use crate::status::{MeshState, MeshStatus};
use crate::under_way::{Counted, UnderWay};

/// A mesh of services, of any number of request types. Clones are the same mesh.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    /// Goes first: what ends with the parts is then no failure.
    lifecycle: Arc<Lifecycle>,
    /// Ends what looks at it.
    gone: CancellationToken,
    parts: BTreeMap<ServiceName, Arc<Part>>,
    start_timeout: Duration,
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

    pub(crate) fn new(
        parts: BTreeMap<ServiceName, Arc<Part>>,
        start_timeout: Duration,
        events: Publisher,
        sinks: Vec<EventSink>,
    ) -> Self {
        let lifecycle = Arc::new(Lifecycle::new(events, sinks));
        let (registry, gone) = (Registry::default(), CancellationToken::new());
        Self(Arc::new(Inner { gone, parts, start_timeout, lifecycle, registry }))
    }

    /// A service, to be joined with the client that reaches it.
    ///
    /// # Errors
    /// [`ErrorKind::ServiceNotFound`] when the configuration has no such service.
    pub fn service(&self, name: &str) -> Result<ServiceHandle, Error> {
        match self.0.parts.get(name) {
            Some(part) => Ok(ServiceHandle::new(part.clone(), self.0.lifecycle.clone())),
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
        let part = self.0.parts.get(name).ok_or_else(not_found)?;
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
        let part = self.0.parts.get(service).ok_or_else(not_found)?;
        let service = self.0.registry.find::<Q>(&part.name, operation)?;
        self.0.lifecycle.admit(&part.name, Some(operation))?;

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
        self.0
            .lifecycle
            .start(
                &self.0.parts,
                self.0.start_timeout,
                WeakMesh { inner: Arc::downgrade(&self.0), gone: self.0.gone.clone() },
            )
            .await
    }

    /// Takes no more calls, waits up to `grace` for those under way, ends every background task and waits for it.
    ///
    /// A mesh that was shut down is not started again. Dropping the future leaves it without new calls and its tasks as they are; a further call ends them.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.0.lifecycle.shutdown(&self.0.parts, grace).await
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.0.parts.values().map(|part| &**part)
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
        let status = self.status();
        let parts = self.0.parts.values().map(|part| (part.required, part.ready_when));
        Readiness::of(&status, parts)
    }

    /// What happens in the mesh from now on. Any number may listen; none holds up another, or a call.
    pub fn events(&self) -> Events {
        self.0.lifecycle.events().subscribe()
    }

    /// A snapshot of everything. Taking it changes nothing and holds up no call.
    pub fn status(&self) -> MeshStatus {
        MeshStatus::take(self.state(), self.0.lifecycle.components(), self.0.parts.values())
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("state", &self.state())
            .field("services", &self.0.parts.keys())
            .finish_non_exhaustive()
    }
}
