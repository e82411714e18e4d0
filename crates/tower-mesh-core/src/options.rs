//! What is to be otherwise for one call.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use crate::priority::Priority;

/// What one call asks of the layers that its configuration says otherwise: part of its [`CallContext`](crate::CallContext). What is not said is as configured.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_core::{CallContext, CallOptions};
/// let options = CallOptions::new().timeout(Duration::from_millis(300)).max_attempts(1);
/// let call = CallContext::new().with_options(options);
/// assert_eq!(call.options().get_max_attempts(), Some(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallOptions {
    timeout_ms: Option<NonZeroU32>,
    max_attempts: Option<NonZeroU8>,
    idempotent: Option<bool>,
    priority: Option<Priority>,
}

impl CallOptions {
    /// Nothing is said.
    pub const fn new() -> Self {
        Self { timeout_ms: None, max_attempts: None, idempotent: None, priority: None }
    }

    /// How long the whole call may take, in whole milliseconds, at least one; a deadline around it that is earlier stays.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let ms = u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        self.timeout_ms = Some(NonZeroU32::new(ms).unwrap_or(NonZeroU32::MIN));
        self
    }

    /// How many attempts there may be, the first included; at least 1, at most 255. A hedge is one too: an attempt is hedged no more often than attempts are
    /// left. Retries do not count the hedges that went before them.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        let attempts = u8::try_from(attempts).unwrap_or(u8::MAX);
        self.max_attempts = Some(NonZeroU8::new(attempts).unwrap_or(NonZeroU8::MIN));
        self
    }

    /// Whether doing it twice does no harm, whatever the request looks like.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// How much the call matters, where its context does not say so itself.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// What this says, and where it says nothing what `other` does.
    pub fn or(self, other: Self) -> Self {
        Self {
            timeout_ms: self.timeout_ms.or(other.timeout_ms),
            max_attempts: self.max_attempts.or(other.max_attempts),
            idempotent: self.idempotent.or(other.idempotent),
            priority: self.priority.or(other.priority),
        }
    }

    /// See [`timeout`](Self::timeout).
    #[inline]
    pub fn get_timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(|ms| Duration::from_millis(ms.get().into()))
    }

    /// See [`max_attempts`](Self::max_attempts).
    #[inline]
    pub fn get_max_attempts(&self) -> Option<u32> {
        self.max_attempts.map(|attempts| attempts.get().into())
    }

    /// See [`priority`](Self::priority).
    #[inline]
    pub fn get_priority(&self) -> Option<Priority> {
        self.priority
    }

    /// See [`idempotent`](Self::idempotent).
    #[inline]
    pub fn is_idempotent(&self) -> Option<bool> {
        self.idempotent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_become_the_nearest_that_can_be() {
        let least = CallOptions::new().timeout(Duration::ZERO).max_attempts(0);
        assert_eq!(
            (least.get_timeout(), least.get_max_attempts()),
            (Some(Duration::from_millis(1)), Some(1))
        );
        let most = CallOptions::new().timeout(Duration::MAX).max_attempts(1000);
        assert_eq!(most.get_max_attempts(), Some(255));
        assert!(most.get_timeout() > Some(Duration::from_secs(49 * 86_400)));
        let both = CallOptions::new().max_attempts(2).or(least.idempotent(true));
        assert_eq!((both.get_max_attempts(), both.is_idempotent()), (Some(2), Some(true)));
    }
}
