//! The knobs. A value that exists is right.

mod limit;
mod success_rate;

pub use limit::{LimitAlgorithm, LimitConfig, LimitConfigBuilder};
pub use success_rate::{SuccessRateConfig, SuccessRateConfigBuilder};

/// What calls are admitted by: a limit on how many are under way, the share of them that succeed, both or neither.
///
/// ```
/// use tower_mesh_admission::{AdmissionConfig, LimitConfig};
/// let config = AdmissionConfig::new().limit(LimitConfig::fixed(50)?);
/// assert_eq!(config.get_limit().map(|limit| limit.initial()), Some(50));
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdmissionConfig {
    limit: Option<LimitConfig>,
    success_rate: Option<SuccessRateConfig>,
}

impl AdmissionConfig {
    /// Everything is admitted.
    pub const fn new() -> Self {
        Self { limit: None, success_rate: None }
    }

    /// At most so many calls are under way at a time. None: as many as come.
    pub fn limit(mut self, limit: impl Into<Option<LimitConfig>>) -> Self {
        self.limit = limit.into();
        self
    }

    /// Calls are refused by chance while too few of them succeed. None: they are not.
    pub fn success_rate(mut self, success_rate: impl Into<Option<SuccessRateConfig>>) -> Self {
        self.success_rate = success_rate.into();
        self
    }

    /// See [`limit`](Self::limit).
    pub const fn get_limit(&self) -> Option<LimitConfig> {
        self.limit
    }

    /// See [`success_rate`](Self::success_rate).
    pub const fn get_success_rate(&self) -> Option<SuccessRateConfig> {
        self.success_rate
    }
}

impl From<LimitConfig> for AdmissionConfig {
    fn from(limit: LimitConfig) -> Self {
        Self::new().limit(limit)
    }
}

impl From<SuccessRateConfig> for AdmissionConfig {
    fn from(success_rate: SuccessRateConfig) -> Self {
        Self::new().success_rate(success_rate)
    }
}
