//! A fixed list of endpoints that can be changed while it is in use.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::watch;
use tower_mesh_core::{Endpoint, EndpointId, Resolve, ResolveError, ServiceName, Update};

/// The endpoints are known, and the program itself changes them. Clones share one list.
///
/// It answers every service name with the same list.
///
/// ```
/// use tower_mesh_discovery::FixedList;
/// let list = FixedList::new(["10.0.0.1:80".parse()?, "10.0.0.2:80".parse()?])?;
/// list.set(["10.0.0.3:80".parse()?])?;         // every balancer fed from it sees the change
/// assert!(list.set(["a:1".parse()?, "a:1".parse()?]).is_err());
/// assert_eq!(list.endpoints().len(), 1, "the last good list stays");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FixedList(Arc<watch::Sender<Vec<Endpoint>>>);

impl FixedList {
    /// A list of `endpoints`, possibly none.
    ///
    /// # Errors
    /// When two of them have the same id.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Self, InvalidList> {
        Ok(Self(Arc::new(watch::Sender::new(checked(endpoints)?))))
    }

    /// Replaces the list.
    ///
    /// # Errors
    /// When two of `endpoints` have the same id. The old list stays.
    pub fn set(&self, endpoints: impl IntoIterator<Item = Endpoint>) -> Result<(), InvalidList> {
        self.0.send_replace(checked(endpoints)?);
        Ok(())
    }

    /// Adds `endpoint`, or replaces the attributes of the one that has its id.
    pub fn upsert(&self, endpoint: Endpoint) {
        self.0.send_modify(|list| match list.iter_mut().find(|old| old.id() == endpoint.id()) {
            Some(old) => *old = endpoint,
            None => list.push(endpoint),
        });
    }

    /// Takes the endpoint of this id out; whether there was one.
    pub fn remove(&self, id: &EndpointId) -> bool {
        self.0.send_if_modified(|list| {
            let before = list.len();
            list.retain(|endpoint| endpoint.id() != id);
            list.len() != before
        })
    }

    /// The list now.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.0.borrow().clone()
    }
}

impl Resolve for FixedList {
    type Updates = BoxStream<'static, Result<Update, ResolveError>>;

    fn resolve(&self, _service: &ServiceName) -> Self::Updates {
        let mut changes = self.0.subscribe();
        changes.mark_changed();
        stream::unfold(changes, |mut changes| async {
            changes.changed().await.ok()?;
            let list = changes.borrow_and_update().clone();
            Some((Ok(Update::Reset(list)), changes))
        })
        .boxed()
    }
}

fn checked(endpoints: impl IntoIterator<Item = Endpoint>) -> Result<Vec<Endpoint>, InvalidList> {
    let endpoints: Vec<_> = endpoints.into_iter().collect();
    let mut seen = HashSet::new();
    match endpoints.iter().find(|endpoint| !seen.insert(endpoint.id())) {
        Some(twice) => Err(InvalidList { duplicate: twice.id().clone() }),
        None => Ok(endpoints),
    }
}

/// A list that names one endpoint twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidList {
    duplicate: EndpointId,
}

impl InvalidList {
    /// The id that stands there twice.
    pub fn duplicate(&self) -> &EndpointId {
        &self.duplicate
    }
}

impl fmt::Display for InvalidList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {} is listed twice", self.duplicate)
    }
}

impl std::error::Error for InvalidList {}
