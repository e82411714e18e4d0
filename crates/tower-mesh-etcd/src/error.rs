//! What etcd did not say.

use std::fmt;

use tower_mesh_core::BoxError;

/// Something that etcd did not say, or said wrongly. What was known before stays in use.
#[derive(Debug)]
pub struct EtcdError {
    key: String,
    kind: EtcdErrorKind,
    cause: BoxError,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EtcdErrorKind {
    /// No server could be reached, or the connection broke. It is tried again.
    Failed,
    /// Nothing came in time. It is tried again.
    Timeout,
    /// The server refuses this user, this password, or these keys. It is tried again, as somebody may put that right.
    Refused,
    /// The value of a key is no endpoint. The last good one of that key stays, the other keys are not touched, and the next value is read.
    WrongValue,
    /// There are more keys than [`max_endpoints`](crate::EtcdConfig::max_endpoints): those over it are left out.
    TooMany,
    /// The lease of a registered key ended. Another is asked for, and the key put again.
    LeaseLost,
}

impl EtcdError {
    pub(crate) fn new(key: impl Into<String>, kind: EtcdErrorKind, cause: impl Into<BoxError>) -> Self {
        Self { key: key.into(), kind, cause: cause.into() }
    }

    pub(crate) fn of_client(key: &str, error: etcd_client::Error) -> Self {
        let refused = match &error {
            // UNAUTHENTICATED and PERMISSION_DENIED; and what etcd says, as an INVALID_ARGUMENT, of a wrong password and of no user.
            etcd_client::Error::GRpcStatus(status) => {
                let code = status.code() as i32;
                let says = |text| status.message().contains(text);
                code == 16 || code == 7 || says("authentication failed") || says("user name is empty")
            }
            _ => false,
        };
        let kind = if refused { EtcdErrorKind::Refused } else { EtcdErrorKind::Failed };
        Self::new(key, kind, error)
    }

    pub(crate) fn timeout(key: &str) -> Self {
        Self::new(key, EtcdErrorKind::Timeout, "nothing came in time")
    }

    /// The key, or what the keys begin with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What went wrong.
    pub fn kind(&self) -> EtcdErrorKind {
        self.kind
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd, {}: {}", self.key, self.cause)
    }
}

impl std::error::Error for EtcdError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}
