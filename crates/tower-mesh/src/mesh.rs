//! The integrator: services by name, their lifecycle, and one status over all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_mesh_core::{BoxError, ServiceName};
use tower_service::Service;

use crate::builder::MeshBuilder;
use crate::call::{MeshRequest, Registry};
use crate::error::{Error, ErrorKind};
use crate::lifecycle::{Lifecycle, ShutdownReport, StartError};
use crate::part::Part;
use crate::service::ServiceHandle;
use crate::status::{MeshState, MeshStatus};

/// A mesh of services, of any number of request types. Clones are the same mesh.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    parts: BTreeMap<ServiceName, Arc<Part>>,
    start_timeout: Duration,
    lifecycle: Arc<Lifecycle>,
    registry: Registry,
}

impl Mesh {
    /// Starts to put one together.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    pub(crate) fn new(parts: BTreeMap<ServiceName, Arc<Part>>, start_timeout: Duration) -> Self {
        let (lifecycle, registry) = (Arc::new(Lifecycle::new()), Registry::default());
        Self(Arc::new(Inner { parts, start_timeout, lifecycle, registry }))
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
        let part =
            self.0.parts.get(name).ok_or_else(|| Error::new(ErrorKind::ServiceNotFound, name, None))?;
        self.0.registry.register::<Q, S>(part.name.clone(), service);
        Ok(())
    }

    /// Calls an operation of a registered service. Dropping the future abandons the call.
    ///
    /// # Errors
    /// See [`ErrorKind`]; [`ErrorKind::ServiceNotFound`] and [`ErrorKind::WrongRequestType`] are answered at once.
    pub async fn call<Q: MeshRequest>(
        &self,
        service: &str,
        operation: &str,
        request: Q,
    ) -> Result<Q::Response, Error> {
        self.0.registry.call(service, operation, request).await
    }

    /// Starts discovery, waits until every required service is resolved, then starts the probes. Returns when calls can be made.
    ///
    /// Dropping the future leaves it as far as it got; [`shutdown`](Self::shutdown) ends that.
    ///
    /// # Errors
    /// When a required service cannot be resolved within the configured `start_timeout`, naming it; what had started is stopped again. When it
    /// has been started before.
    pub async fn start(&self) -> Result<(), StartError> {
        self.0.lifecycle.start(&self.0.parts, self.0.start_timeout).await
    }

    /// Takes no more calls, waits up to `grace` for those under way, ends every background task and waits for it.
    ///
    /// A mesh that was shut down is not started again.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.0.lifecycle.shutdown(&self.0.parts, grace).await
    }

    /// How far it is.
    pub fn state(&self) -> MeshState {
        self.0.lifecycle.state()
    }

    /// A snapshot of everything. Taking it changes nothing and holds up no call.
    pub fn status(&self) -> MeshStatus {
        MeshStatus::take(self.state(), self.0.parts.values())
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
