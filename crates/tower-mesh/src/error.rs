//! The mesh's error: what a caller may know.

use std::fmt;

use tower_mesh_admission::Overloaded;
use tower_mesh_breaker::CircuitOpen;
use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_core::error::{Judged, find};
use tower_mesh_core::{BoxError, Operation, ServiceName};
use tower_mesh_discovery::{NoEndpoints, NotDriven, NotReady};
use tower_mesh_health::Unhealthy;
use tower_mesh_retry::error::{AttemptTimedOut, DeadlineExceeded, RetriesExhausted};

/// A call through the mesh that has no answer.
///
/// `Display` says what the caller of the mesh may know: the service, the operation and the kind, never an address or a credential. What
/// the layers and the client said is in [`source`](std::error::Error::source), for the operator. So is `Debug`, which shows the source and with it
/// addresses: for a log, never for an answer to somebody outside.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    service: String,
    operation: Option<Operation>,
    attempts: u32,
    judged: Judged,
}

/// What a call that failed here means to a layer outside that sends again: the mesh has done what could be done, and a refusal in the middle of somebody's work
/// does not say that none of the work was done.
const FINAL: Verdict = Verdict::failure(Origin::Local, Retry::Never);

/// Why there is no answer. What a server tells its own caller of each is at [`Answer`](crate::Answer).
///
/// | kind | cause | what the caller should do |
/// |---|---|---|
/// | `ServiceNotFound` | the mesh has no such service, or nothing was registered for it | mend the name or the configuration |
/// | `WrongRequestType` | the service was registered for another request type | mend the call |
/// | `PermissionDenied` | the caller may not do this; nothing was sent | do not; or have it allowed |
/// | `ShuttingDown` | the mesh takes no more calls | stop |
/// | `NotStarted` | [`Mesh::start`](crate::Mesh::start) has not been called, so nothing is resolved | start the mesh |
/// | `NoEndpoints` | nothing to send to: not resolved, none there, or all unavailable | fail, or try later |
/// | `CircuitOpen` | a circuit around the call is open | fail, or try later |
/// | `Unhealthy` | the one endpoint is down | fail, or try later |
/// | `NotReady` | no endpoint could take the call in time | fail; the service is overloaded |
/// | `Overloaded` | there is no room for the call, by the table `limit` or `admission`; nothing was sent | fail, or try later; not at once |
/// | `DeadlineExceeded` | the call took too long; it may have been acted on | as for any call without answer |
/// | `AttemptTimedOut` | the last attempt took too long and no other was allowed; it may have been acted on | as for any call without answer |
/// | `Upstream` | the client failed; its error is the source | depends on that |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The mesh has no such service.
    ServiceNotFound,
    /// The service was registered for another request type.
    WrongRequestType,
    /// The caller may not do this.
    PermissionDenied,
    /// The mesh takes no more calls.
    ShuttingDown,
    /// The mesh has not been started.
    NotStarted,
    /// There is no endpoint to send to.
    NoEndpoints,
    /// A circuit around the call is open.
    CircuitOpen,
    /// The one endpoint is down.
    Unhealthy,
    /// No endpoint could take the call in time.
    NotReady,
    /// There is no room for the call.
    Overloaded,
    /// The whole call took too long.
    DeadlineExceeded,
    /// The last attempt took too long.
    AttemptTimedOut,
    /// The client failed.
    Upstream,
}

impl ErrorKind {
    /// The kind of what a stack of layers said, by which of their errors is in the chain, or [`Upstream`](Self::Upstream).
    pub(crate) fn of(chain: &(dyn std::error::Error + Send + Sync + 'static)) -> Self {
        if find::<Error>(chain).is_some() {
            // The endpoint itself calls through a mesh: what went wrong there is no circuit and no deadline of this call.
            Self::Upstream
        } else if find::<DeadlineExceeded>(chain).is_some() || channel_timed_out(chain) {
            Self::DeadlineExceeded
        } else if find::<NotDriven>(chain).is_some() {
            Self::NotStarted
        } else if find::<NoEndpoints>(chain).is_some() {
            Self::NoEndpoints
        } else if find::<NotReady>(chain).is_some()
            || find::<tower_mesh_retry::error::NotReady>(chain).is_some()
        {
            Self::NotReady
        } else if find::<Overloaded>(chain).is_some() {
            Self::Overloaded
        } else if find::<CircuitOpen>(chain).is_some() {
            Self::CircuitOpen
        } else if find::<Unhealthy>(chain).is_some() {
            Self::Unhealthy
        } else if find::<AttemptTimedOut>(chain).is_some() {
            Self::AttemptTimedOut
        } else {
            Self::Upstream
        }
    }

    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::ServiceNotFound,
        Self::WrongRequestType,
        Self::PermissionDenied,
        Self::ShuttingDown,
        Self::NotStarted,
        Self::NoEndpoints,
        Self::CircuitOpen,
        Self::Unhealthy,
        Self::NotReady,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::AttemptTimedOut,
        Self::Upstream,
    ];

    /// Its name in spans and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceNotFound => "service-not-found",
            Self::WrongRequestType => "wrong-request-type",
            Self::PermissionDenied => "permission-denied",
            Self::ShuttingDown => "shutting-down",
            Self::NotStarted => "not-started",
            Self::NoEndpoints => "no-endpoints",
            Self::CircuitOpen => "circuit-open",
            Self::Unhealthy => "unhealthy",
            Self::NotReady => "not-ready",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::AttemptTimedOut => "attempt-timed-out",
            Self::Upstream => "upstream",
        }
    }
}

/// tonic's channel has a timer of its own for what is left of the deadline, which may be first.
#[cfg(feature = "tonic")]
fn channel_timed_out(chain: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    find::<tonic::TimeoutExpired>(chain).is_some()
}

#[cfg(not(feature = "tonic"))]
fn channel_timed_out(_chain: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    false
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceNotFound => "no such service",
            Self::WrongRequestType => "the service takes another type of request",
            Self::PermissionDenied => "not allowed",
            Self::ShuttingDown => "shutting down",
            Self::NotStarted => "not started",
            Self::NoEndpoints => "no endpoint is available",
            Self::CircuitOpen => "the circuit is open",
            Self::Unhealthy => "the endpoint is down",
            Self::NotReady => "no endpoint was ready in time",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "the deadline has passed",
            Self::AttemptTimedOut => "no answer in time",
            Self::Upstream => "the request failed",
        })
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, service: impl Into<String>, operation: Option<Operation>) -> Self {
        Self { kind, service: service.into(), operation, attempts: 0, judged: Judged::new(FINAL) }
    }

    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.judged = Judged::because(FINAL, source);
        self
    }

    /// What a service said that has no layers of the mesh's.
    pub(crate) fn upstream(source: impl Into<BoxError>, service: &ServiceName, operation: Operation) -> Self {
        Self::new(ErrorKind::Upstream, service.as_str(), Some(operation)).because(source)
    }

    /// What the stack of a service said.
    pub(crate) fn of_call(source: BoxError, service: &ServiceName, operation: Option<Operation>) -> Self {
        let chain = &*source;
        let kind = ErrorKind::of(chain);
        let attempts = find::<RetriesExhausted>(chain).map_or(1, RetriesExhausted::attempts);
        Self {
            kind,
            service: service.as_str().to_owned(),
            operation,
            attempts,
            judged: Judged::because(FINAL, source),
        }
    }

    /// Why there is no answer.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The service that was called, as the caller named it.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The operation, if the call named one.
    pub fn operation(&self) -> Option<Operation> {
        self.operation
    }

    /// How many attempts there were; 0 if the call did not get as far as the service's stack.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The caller's own words may come from outside: they break no line.
        write!(f, "service {}", self.service.escape_debug())?;
        if let Some(operation) = self.operation {
            write!(f, ", operation {}", operation.as_str().escape_debug())?;
        }
        write!(f, ": {}", self.kind)?;
        if matches!(self.kind, ErrorKind::ServiceNotFound | ErrorKind::WrongRequestType)
            && let Some(why) = self.judged.cause()
        {
            write!(f, " ({why})")?; // of our own making: it names types, and no place
        }
        if self.attempts > 1 {
            write!(f, " after {} attempts", self.attempts)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_mesh_core::classify::{ByResult, judge};

    #[test]
    fn no_kind_shows_a_caller_what_the_source_says() {
        let secret = "connect to postgres://user:secret@10.1.2.3:5432: refused";
        for kind in ErrorKind::ALL {
            // What these two say beside their kind is of our own making, and names types.
            if matches!(kind, ErrorKind::ServiceNotFound | ErrorKind::WrongRequestType) {
                continue;
            }
            let error = Error::new(kind, "database", Some(Operation::named("select"))).because(secret);
            let said = error.to_string();
            assert!(!said.contains("10.1.2.3") && !said.contains("secret"), "{said}");
            assert!(said.contains("database") && said.contains("select"), "{said}");
            let mut chain = Vec::new();
            let mut next = std::error::Error::source(&error);
            while let Some(error) = next {
                chain.push(error.to_string());
                next = error.source();
            }
            assert!(chain.iter().any(|link| link == secret), "the operator finds it: {chain:?}");
            assert!(format!("{error:?}").contains(secret), "in a log too");
        }
    }

    #[test]
    fn a_refusal_inside_is_final_outside() {
        let refused = Judged::because(Verdict::REFUSED, "no endpoint");
        let error: BoxError = Error::of_call(refused.into(), &"inner".parse().unwrap(), None).into();
        let outside: BoxError = format!("work half done: {error}").into();
        assert_eq!(judge::<(), _>(&ByResult, Err(&*error)).retry, Retry::Never);
        assert_eq!(
            judge::<(), _>(&ByResult, Err(&*outside)).retry,
            Retry::IfIdempotent,
            "said in words it is foreign"
        );
    }
}
