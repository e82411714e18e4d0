//! The knobs of hedges.

use std::time::Duration;

use tower_mesh_core::error::{InvalidConfig, Mistakes};

use super::HOUR;

const MAX_HEDGES: u32 = 4;

/// When [`HedgeLayer`](crate::HedgeLayer) asks another endpoint.
///
/// ```
/// use tower_mesh_retry::HedgeConfig;
/// let config = HedgeConfig::builder().max_hedges(2).percentile(0.99).build()?;
/// assert_eq!(config.max_hedges(), 2);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HedgeConfig {
    max_hedges: u32,
    delay: Duration,
    percentile: Option<f64>,
    ready_timeout: Duration,
}

impl HedgeConfig {
    /// The shortest delay that a measured latency is taken for (Finagle).
    pub const MIN_MEASURED_DELAY: Duration = Duration::from_millis(1);

    /// Starts from the defaults.
    pub fn builder() -> HedgeConfigBuilder {
        HedgeConfigBuilder(Self::default())
    }

    /// How many attempts are sent beside the first at most. 0 switches hedging off. Default 1, allowed up to 4, so that with the first there are at most 5 (gRFC A6).
    pub const fn max_hedges(&self) -> u32 {
        self.max_hedges
    }

    /// How long after one attempt the next starts, if none has been answered: always, or with a [`percentile`](Self::percentile) until that is known.
    /// Default 2 s (Polly), allowed up to an hour. With 0 all start at once.
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// The share of first attempts that are answered without a hedge: the delay is this percentile of their latency during the last 10 to 20 s, known once
    /// there are a hundred of them and never less than 1 ms. Default none, allowed above 0 and below 1.
    pub const fn percentile(&self) -> Option<f64> {
        self.percentile
    }

    /// How long a hedge waits for the inner service to become ready, deadline or not. Default 3 s, allowed is more than zero, up to an hour.
    pub const fn ready_timeout(&self) -> Duration {
        self.ready_timeout
    }
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            max_hedges: 1,
            delay: Duration::from_secs(2),
            percentile: None,
            ready_timeout: Duration::from_secs(3),
        }
    }
}

/// Makes a [`HedgeConfig`]; each setter is documented at the getter of the same name.
#[derive(Debug, Clone, Copy)]
pub struct HedgeConfigBuilder(HedgeConfig);

impl HedgeConfigBuilder {
    /// Sets [`HedgeConfig::max_hedges`].
    pub fn max_hedges(mut self, hedges: u32) -> Self {
        self.0.max_hedges = hedges;
        self
    }

    /// Sets [`HedgeConfig::delay`].
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay = delay;
        self
    }

    /// Sets [`HedgeConfig::percentile`].
    pub fn percentile(mut self, percentile: impl Into<Option<f64>>) -> Self {
        self.0.percentile = percentile.into();
        self
    }

    /// Sets [`HedgeConfig::ready_timeout`].
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.0.ready_timeout = timeout;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When a value is outside what its getter allows; all such values are named.
    pub fn build(self) -> Result<HedgeConfig, InvalidConfig> {
        let config = self.0;
        let mut check = Mistakes::default();
        check.unless(config.max_hedges <= MAX_HEDGES, "max_hedges", config.max_hedges, "0 to 4");
        check.unless(config.delay <= HOUR, "delay", format_args!("{:?}", config.delay), "up to 1h");
        let percentile = config.percentile.unwrap_or(0.5);
        check.unless(
            percentile > 0.0 && percentile < 1.0,
            "percentile",
            percentile,
            "above 0 and below 1, or none",
        );
        check.unless(
            !config.ready_timeout.is_zero() && config.ready_timeout <= HOUR,
            "ready_timeout",
            format_args!("{:?}", config.ready_timeout),
            "more than 0s, up to 1h",
        );
        check.finish(config)
    }
}
