use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};

use super::target::{Target, target_setters};

/// Checks endpoints by connecting to them; made by [`tcp`](super::tcp).
///
/// A connection that is accepted means well, and is closed again; with [`tls`](Self::tls), a handshake that succeeds. For servers that speak a protocol
/// that no other probe does. It does not see a process that hangs: the operating system accepts in its place.
///
/// The endpoint's address must name a port, if [`port`](Self::port) does not.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct TcpProbe {
    target: Target,
}

impl TcpProbe {
    target_setters!();
}

impl Probe for TcpProbe {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let place = self.target.of(endpoint, None)?;
        self.target.connect(&place).await.map(|_stream| Probed::Healthy)
    }
}
