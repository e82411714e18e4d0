//! What a discovery layer tells its listeners.

use std::collections::HashMap;
use std::sync::Arc;

use tower_mesh_core::{Endpoint, EndpointHandle, ResolveError};

use crate::members::Members;
use crate::status::DiscoveryState;

/// Something that happened to what is known of a service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// Endpoints came, went, or are described otherwise.
    Endpoints(Membership),
    /// The source failed; the last good endpoints stay.
    Failed {
        /// With what.
        error: Arc<ResolveError>,
        /// Where resolution stands now.
        state: DiscoveryState,
    },
    /// Resolution stands elsewhere than before: from [`Failed`](DiscoveryState::Failed), [`Stale`](DiscoveryState::Stale) or
    /// [`Expired`](DiscoveryState::Expired) to [`Current`](DiscoveryState::Current) it has recovered.
    State {
        /// Before.
        from: DiscoveryState,
        /// Now.
        to: DiscoveryState,
    },
}

/// A change of the endpoints.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Membership {
    /// Those that are new.
    pub added: Vec<EndpointHandle>,
    /// Those that are gone.
    pub removed: Vec<EndpointHandle>,
    /// Those that stayed with another address or other attributes.
    pub changed: Vec<EndpointHandle>,
    /// How many were announced and left out, being over the bound.
    pub over: usize,
    /// [`DiscoveryStatus::version`](crate::DiscoveryStatus::version) now.
    pub version: u64,
}

/// What was known before a step, to be compared with what is known after it. Taken only if somebody listens.
pub(crate) struct Before {
    state: DiscoveryState,
    endpoints: HashMap<u32, (EndpointHandle, Arc<Endpoint>)>,
}

impl Before {
    pub(crate) fn new(state: DiscoveryState, members: &Members) -> Self {
        let members = members.as_slice().iter();
        let known = members.map(|member| (member.key, (member.handle.clone(), member.handle.endpoint())));
        Self { state, endpoints: known.collect() }
    }

    pub(crate) fn events(
        mut self,
        state: DiscoveryState,
        members: &Members,
        version: u64,
        over: usize,
        error: Option<Arc<ResolveError>>,
    ) -> Vec<DiscoveryEvent> {
        let mut events = Vec::from_iter(error.map(|error| DiscoveryEvent::Failed { error, state }));
        if self.state != state {
            events.push(DiscoveryEvent::State { from: self.state, to: state });
        }
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for member in members.as_slice() {
            match self.endpoints.remove(&member.key) {
                None => added.push(member.handle.clone()),
                // A record takes in attributes only if they differ.
                Some((_, before)) if !Arc::ptr_eq(&before, &member.handle.endpoint()) => {
                    changed.push(member.handle.clone());
                }
                Some(_) => {}
            }
        }
        let mut removed: Vec<_> = self.endpoints.into_values().map(|(handle, _)| handle).collect();
        removed.sort_by_key(EndpointHandle::key);
        if !(added.is_empty() && removed.is_empty() && changed.is_empty()) || over > 0 {
            events.push(DiscoveryEvent::Endpoints(Membership { added, removed, changed, over, version }));
        }
        events
    }
}
