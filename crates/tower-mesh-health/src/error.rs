use std::error::Error;
use std::fmt;

use tower_mesh_core::EndpointId;
use tower_mesh_core::classify::Verdict;
use tower_mesh_core::error::Judged;

/// The endpoint is down by its health checks, and nothing was sent to it.
///
/// Its [`source`](Error::source) is a [`Judged`] refusal, so nobody counts it as a failure of the endpoint and it may be sent elsewhere.
#[derive(Debug)]
pub struct Unhealthy {
    endpoint: EndpointId,
    judged: Judged,
}

impl Unhealthy {
    pub(crate) fn new(endpoint: EndpointId) -> Self {
        Self { endpoint, judged: Judged::new(Verdict::REFUSED) }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the endpoint is down by its health checks")
    }
}

impl Error for Unhealthy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.judged)
    }
}
