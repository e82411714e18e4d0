//! Resolvers of any type, behind one.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tower_mesh_core::{Resolve, ResolveError, ServiceName, Update};

/// The updates of any resolver.
pub(crate) type Updates = BoxStream<'static, Result<Update, ResolveError>>;

/// Any resolver.
#[derive(Clone)]
pub(crate) struct AnyResolver(Arc<dyn Fn(&ServiceName) -> Updates + Send + Sync>);

impl AnyResolver {
    pub(crate) fn new(resolver: impl Resolve) -> Self {
        Self(Arc::new(move |service| resolver.resolve(service).boxed()))
    }

    /// One whose word stays good when it has nothing more to say: a list that nobody is left to change does not grow stale.
    pub(crate) fn lasting(resolver: impl Resolve) -> Self {
        Self(Arc::new(move |service| resolver.resolve(service).chain(stream::pending()).boxed()))
    }
}

impl Resolve for AnyResolver {
    type Updates = Updates;

    fn resolve(&self, service: &ServiceName) -> Updates {
        (self.0)(service)
    }
}
