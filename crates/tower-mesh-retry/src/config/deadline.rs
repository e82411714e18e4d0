//! The knob of a deadline.

use std::time::Duration;

use tower_mesh_core::error::{InvalidConfig, Mistakes};

/// How long a whole call may take: see [`DeadlineLayer`](crate::DeadlineLayer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlineConfig {
    timeout: Option<Duration>,
}

impl DeadlineConfig {
    /// Starts from the defaults.
    pub fn builder() -> DeadlineConfigBuilder {
        DeadlineConfigBuilder(Self::default())
    }

    /// How long a call may take, from `call` to the head of its response, all attempts and waits between them included. None is for ever.
    /// Default 15 s, allowed is more than zero.
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

impl Default for DeadlineConfig {
    fn default() -> Self {
        Self { timeout: Some(Duration::from_secs(15)) }
    }
}

/// Makes a [`DeadlineConfig`]; each setter is documented at the getter of the same name.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineConfigBuilder(DeadlineConfig);

impl DeadlineConfigBuilder {
    /// Sets [`DeadlineConfig::timeout`].
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.0.timeout = timeout.into();
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When the timeout is zero.
    pub fn build(self) -> Result<DeadlineConfig, InvalidConfig> {
        let mut check = Mistakes::default();
        check.unless(self.0.timeout != Some(Duration::ZERO), "timeout", "0s", "more than 0s, or none");
        check.finish(self.0)
    }
}
