//! Calls by name: services of different request types in one mesh.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use tower_mesh_core::{BoxError, CallContext, Operation, ServiceName};
use tower_service::Service;

use crate::error::{Error, ErrorKind};

/// A request that can be sent by [`Mesh::call`](crate::Mesh::call): it says what type its answer has, so that a call needs no annotation.
///
/// ```
/// use tower_mesh::MeshRequest;
/// struct Query { text: String }
/// struct Rows(Vec<String>);
/// impl MeshRequest for Query { type Response = Rows; }
/// ```
pub trait MeshRequest: Send + 'static {
    /// The type of its answer.
    type Response: 'static;
}

pub(crate) type Boxed<Q> = BoxCloneSyncService<Q, <Q as MeshRequest>::Response, BoxError>;

/// The services that were registered, by name and request type.
#[derive(Default)]
pub(crate) struct Registry(RwLock<HashMap<ServiceName, Entry>>);

#[derive(Default)]
struct Entry {
    by_type: HashMap<TypeId, Registered>,
}

struct Registered {
    request: &'static str,
    service: Box<dyn Any + Send + Sync>,
}

impl Registry {
    pub(crate) fn register<Q, S>(&self, name: ServiceName, service: S)
    where
        Q: MeshRequest,
        S: Service<Q, Response = Q::Response> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let boxed: Boxed<Q> = BoxCloneSyncService::new(service.map_err(Into::into));
        let registered = Registered { request: type_name::<Q>(), service: Box::new(boxed) };
        let old = {
            let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
            entries.entry(name).or_default().by_type.insert(TypeId::of::<Q>(), registered)
        };
        // What was registered before may run a user's destructor: never under the lock.
        drop(old);
    }

    /// Nothing is registered under this name any more.
    pub(crate) fn forget(&self, name: &ServiceName) {
        let old = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        // It may run a user's destructor: never under the lock.
        drop(old);
    }

    /// The service that was registered under this name for requests of type `Q`.
    pub(crate) fn find<Q: MeshRequest>(
        &self,
        name: &ServiceName,
        operation: Operation,
    ) -> Result<Boxed<Q>, Error> {
        let wrong = |kind, why: String| Error::new(kind, name.as_str(), Some(operation)).because(why);
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get(name) else {
            let why = "the configuration has it, but nothing is registered for it".to_owned();
            return Err(wrong(ErrorKind::ServiceNotFound, why));
        };
        match entry.by_type.get(&TypeId::of::<Q>()) {
            Some(registered) => {
                let boxed = registered.service.downcast_ref::<Boxed<Q>>();
                Ok(boxed.expect("filed under the type it has").clone())
            }
            None => {
                let mut takes: Vec<_> = entry.by_type.values().map(|registered| registered.request).collect();
                takes.sort_unstable();
                let (takes, given) = (takes.join(", "), type_name::<Q>());
                let why = format!("it is registered for {takes}, and was called with {given}");
                Err(wrong(ErrorKind::WrongRequestType, why))
            }
        }
    }
}

/// Makes one call.
pub(crate) async fn call<Q: MeshRequest>(
    mut service: Boxed<Q>,
    name: &ServiceName,
    operation: Operation,
    request: Q,
) -> Result<Q::Response, Error> {
    let mut call = CallContext::inherit().with_operation(operation);
    let answer = async {
        std::future::poll_fn(|cx| call.lend(|| service.poll_ready(cx))).await?;
        let mut future = call.lend(|| service.call(request));
        std::future::poll_fn(|cx| call.lend(|| future.as_mut().poll(cx))).await
    };
    answer.await.map_err(|error: BoxError| match error.downcast::<Error>() {
        // The service's own layers have said all there is to say. Of another service it is what happened upstream.
        Ok(error) if error.service() == name.as_str() => *error,
        Ok(error) => Error::upstream(error, name, operation),
        Err(error) => Error::upstream(error, name, operation),
    })
}
