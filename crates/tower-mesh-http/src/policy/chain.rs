//! What a service tells its callers of its own retries, so that those along a chain do not multiply.

use http::{HeaderMap, HeaderName};
use tower_mesh_core::classify::{Retry, Verdict};

/// The header of a response that says: this failed although it was tried as often as it may be; do not send it again. Its value is of no account.
pub const RETRIED: HeaderName = HeaderName::from_static("x-mesh-retried");

/// `verdict`, but that what its sender has already tried again in vain is not to be sent again.
pub fn stop(verdict: Verdict, headers: &HeaderMap) -> Verdict {
    if verdict.is_final() || !headers.contains_key(RETRIED) {
        return verdict;
    }
    Verdict { retry: Retry::Forbidden, ..verdict }
}
