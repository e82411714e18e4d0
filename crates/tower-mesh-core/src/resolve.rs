//! Where endpoints come from.

use std::fmt;

use futures_core::Stream;

use crate::endpoint::{Endpoint, EndpointId};
use crate::error::BoxError;
use crate::name::ServiceName;

/// Turns a [`ServiceName`] into a stream of what is known of its endpoints.
///
/// The stream is the source's whole truth: it reconnects by itself, says what changed, and says so when it cannot. An error or the end of the
/// stream means *stale*: the last good set stays in use. [`Update::Reset`] with no endpoints means *there are none*;
/// [`Update::NotFound`] means the source knows for sure that there is no such service. Dropping the stream cancels it.
///
/// ```
/// use futures_util::stream;
/// use tower_mesh_core::{Endpoint, Resolve, ResolveError, ServiceName, Update};
///
/// /// Knows one answer.
/// struct Single(Endpoint);
///
/// impl Resolve for Single {
///     type Updates = stream::Iter<std::vec::IntoIter<Result<Update, ResolveError>>>;
///     fn resolve(&self, _service: &ServiceName) -> Self::Updates {
///         stream::iter(vec![Ok(Update::Reset(vec![self.0.clone()]))])
///     }
/// }
/// ```
///
/// A whole one, which asks an inventory over HTTP and tells its errors from its answers, is `examples/custom_resolver.rs` in the repository.
pub trait Resolve: Send + Sync + 'static {
    /// The stream of updates.
    type Updates: Stream<Item = Result<Update, ResolveError>> + Send + 'static;

    /// Begins to resolve `service`. Must not block and must not spawn: the stream does the work when it is polled.
    fn resolve(&self, service: &ServiceName) -> Self::Updates;
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// These are all endpoints there are, possibly none.
    Reset(Vec<Endpoint>),
    /// These are new or have new attributes; the others stay.
    Upsert(Vec<Endpoint>),
    /// These are gone; the others stay.
    Remove(Vec<EndpointId>),
    /// There is no such service.
    NotFound,
}

/// A source could not say. What was known before stays in use.
#[derive(Debug)]
pub struct ResolveError(BoxError);

impl ResolveError {
    /// An error caused by `source`.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot resolve: {}", self.0)
    }
}

impl std::error::Error for ResolveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
