//! Why a call got no endpoint.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tower_mesh_core::classify::{Retry, Verdict};
use tower_mesh_core::error::Judged;
use tower_mesh_core::{BoxError, ServiceName};

/// There was no endpoint to send the call to. Nothing was sent.
#[derive(Debug)]
pub struct NoEndpoints {
    service: ServiceName,
    reason: NoEndpointsReason,
    retry_after: Option<Duration>,
    judged: Judged,
}

/// Why there was none. Each is answered in bounded time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoEndpointsReason {
    /// The source has not answered yet, within [`ready_timeout`](crate::DiscoveryConfig::ready_timeout).
    NotResolved,
    /// The source has failed and never answered, within [`ready_timeout`](crate::DiscoveryConfig::ready_timeout). The source's error is in the chain.
    ResolverFailed,
    /// The source says that there is no such service. Answered at once.
    NotFound,
    /// The source says that the service has no endpoints. Answered at once.
    Empty,
    /// There are endpoints, but none may be used now. Answered at once; the last endpoint's refusal, if one refused, is in the chain.
    AllUnavailable,
}

impl NoEndpoints {
    pub(crate) fn new(service: ServiceName, reason: NoEndpointsReason) -> Self {
        Self { service, reason, retry_after: None, judged: Judged::new(Verdict::REFUSED) }
    }

    pub(crate) fn because(
        service: ServiceName,
        reason: NoEndpointsReason,
        cause: impl Into<BoxError>,
    ) -> Self {
        Self { judged: Judged::because(Verdict::REFUSED, cause), ..Self::new(service, reason) }
    }

    pub(crate) fn all_unavailable(
        service: ServiceName,
        wait: Option<Duration>,
        refusal: Option<BoxError>,
    ) -> Self {
        let verdict = Verdict::REFUSED.with_wait(wait);
        let judged = match refusal {
            Some(refusal) => Judged::because(verdict, refusal),
            None => Judged::new(verdict),
        };
        Self { service, reason: NoEndpointsReason::AllUnavailable, retry_after: wait, judged }
    }

    /// The service that has none.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Why.
    pub fn reason(&self) -> NoEndpointsReason {
        self.reason
    }

    /// When the first endpoint will be tried again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for NoEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            NoEndpointsReason::NotResolved => "it is not resolved yet",
            NoEndpointsReason::ResolverFailed => "it cannot be resolved",
            NoEndpointsReason::NotFound => "discovery knows no such service",
            NoEndpointsReason::Empty => "it has none",
            NoEndpointsReason::AllUnavailable => "all are unavailable",
        };
        write!(f, "no endpoint for service {}: {why}", self.service)
    }
}

impl Error for NoEndpoints {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.judged)
    }
}

/// The driver of the discovery layer does not run, so nothing will ever be resolved. Nothing was sent.
///
/// Spawn the [`Driver`](crate::Driver) that [`DiscoveryLayer::new`](crate::DiscoveryLayer::new) gave, and keep it running.
#[derive(Debug)]
pub struct NotDriven {
    service: ServiceName,
    judged: Judged,
}

impl NotDriven {
    pub(crate) fn new(service: ServiceName) -> Self {
        // Sending again does not help: nobody is there to resolve.
        Self { service, judged: Judged::new(Verdict { retry: Retry::Never, ..Verdict::REFUSED }) }
    }

    /// The service whose driver does not run.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }
}

impl fmt::Display for NotDriven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "discovery of service {} is not driven: its Driver was dropped or never spawned",
            self.service
        )
    }
}

impl Error for NotDriven {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.judged)
    }
}

/// An endpoint was picked, but neither it nor another was ready to take the call in time. Nothing was sent.
#[derive(Debug)]
pub struct NotReady {
    service: ServiceName,
    waited: Duration,
    judged: Judged,
}

impl NotReady {
    pub(crate) fn new(service: ServiceName, waited: Duration) -> Self {
        Self { service, waited, judged: Judged::new(Verdict::REFUSED) }
    }

    /// The service that was called.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// How long the call waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no endpoint of service {} was ready within {:?}", self.service, self.waited)
    }
}

impl Error for NotReady {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.judged)
    }
}
