//! Why DNS gave no answer.

use std::fmt;

use tower_mesh_core::BoxError;

/// A question that was not answered. What was known before stays in use.
#[derive(Debug)]
pub struct DnsError {
    name: String,
    kind: DnsErrorKind,
    cause: BoxError,
}

/// How a question was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DnsErrorKind {
    /// A server answered that it cannot answer: SERVFAIL, REFUSED and the like.
    Refused,
    /// No server answered in time.
    Timeout,
    /// No server could be reached, or what it said was no answer.
    Failed,
}

impl DnsError {
    pub(crate) fn new(name: impl fmt::Display, kind: DnsErrorKind, cause: impl Into<BoxError>) -> Self {
        Self { name: name.to_string(), kind, cause: cause.into() }
    }

    /// The name asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it was not answered.
    pub fn kind(&self) -> DnsErrorKind {
        self.kind
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer from DNS for {}: {}", self.name, self.cause)
    }
}

impl std::error::Error for DnsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

/// The system's configuration of DNS cannot be used.
#[derive(Debug)]
pub struct SetupError(pub(crate) BoxError);

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot set up DNS: {}", self.0)
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
