use tower_layer::Layer;
use tower_mesh_core::Live;

use super::service::Deadline;
use crate::config::DeadlineConfig;

/// Ends each call after a time, all attempts and the waits between them included, with [`DeadlineExceeded`](crate::error::DeadlineExceeded).
///
/// It stands outside [`RetryLayer`](crate::RetryLayer), which learns of the deadline through the [`CallContext`](tower_mesh_core::CallContext), does not begin waits that would
/// outlast it, and keeps it, so that one timer serves both. A deadline that the call already has and that is earlier stays.
///
/// Waiting for readiness before `call` is not included: what is to be bounded there has its own bound.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_retry::{DeadlineConfig, DeadlineLayer};
/// let layer = DeadlineLayer::new(DeadlineConfig::builder().timeout(Duration::from_secs(2)).build()?);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone)]
pub struct DeadlineLayer {
    config: Live<DeadlineConfig>,
}

impl DeadlineLayer {
    /// A layer for calls that take as long as `config` says.
    pub fn new(config: DeadlineConfig) -> Self {
        Self { config: Live::new(config) }
    }

    /// The configuration cell of all services made by this layer. A call keeps the configuration it began with.
    pub fn live(&self) -> &Live<DeadlineConfig> {
        &self.config
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline::new(inner, self.config.reader())
    }
}
