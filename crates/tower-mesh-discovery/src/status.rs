//! What can be read of a discovery layer.

use std::sync::Arc;

use tower_mesh_core::{EndpointHandle, ResolveError, ServiceName, Tick};

/// Where resolution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiscoveryState {
    /// The driver does not run: it was not polled yet, or was dropped.
    NotDriven,
    /// The source has not answered yet.
    Resolving,
    /// The source's last word is in use.
    Current,
    /// The source failed or ended after it had answered; the last good set is in use.
    Stale,
    /// The source is not listened to, as there were no calls or it was told to rest, or was woken and has not answered yet; the last good set is in use. See
    /// [`Driver::resting`](crate::Driver::resting).
    Resting,
    /// The source failed and never answered.
    Failed,
    /// The source says that there is no such service.
    NotFound,
    /// The source failed or ended, and what it said before is older than [`max_stale`](crate::DiscoveryConfig::max_stale): there are no endpoints.
    Expired,
}

/// A consistent snapshot. Taking it changes nothing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiscoveryStatus {
    /// The service resolved.
    pub service: ServiceName,
    /// Where resolution stands.
    pub state: DiscoveryState,
    /// The endpoints in use.
    pub endpoints: Vec<EndpointHandle>,
    /// When the source last answered.
    pub updated_at: Option<Tick>,
    /// How many of them the source no longer names, but may not go yet.
    pub absent: usize,
    /// How often membership, or the attributes of an endpoint, have changed.
    pub version: u64,
    /// How often the source has failed.
    pub errors: u64,
    /// The source's last error, if its last word was one.
    pub last_error: Option<Arc<ResolveError>>,
}
