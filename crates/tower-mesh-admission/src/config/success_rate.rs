//! The knobs of throttling by success rate.

use std::time::Duration;

use tower_mesh_core::error::{InvalidConfig, Mistakes};
use tower_mesh_core::{Priority, Ratio};

use crate::policy::{rejection_probability, with_priority};

/// From which success rate on calls are refused, and how many.
///
/// ```
/// use tower_mesh_admission::SuccessRateConfig;
/// let config = SuccessRateConfig::builder().threshold(0.5).build()?;
/// assert_eq!(config.max_rejection().as_f64(), 0.8);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRateConfig {
    threshold: Ratio,
    aggression_percent: u32,
    max_rejection: Ratio,
    window: Duration,
    min_calls: u32,
}

impl Default for SuccessRateConfig {
    fn default() -> Self {
        Self {
            threshold: Ratio::percent(95),
            aggression_percent: 100,
            max_rejection: Ratio::percent(80),
            window: Duration::from_secs(30),
            min_calls: 100,
        }
    }
}

impl SuccessRateConfig {
    /// Starts from the defaults.
    pub fn builder() -> SuccessRateConfigBuilder {
        let config = Self::default();
        SuccessRateConfigBuilder { config, threshold: 0.95, aggression: 1.0, max_rejection: 0.8 }
    }

    /// The share of calls that must succeed for none to be refused. Default 0.95 (Envoy).
    pub fn threshold(&self) -> Ratio {
        self.threshold
    }

    /// How soon below that many are refused: over 1 sooner, below 1 later. Default 1 (Envoy).
    pub fn aggression(&self) -> f64 {
        f64::from(self.aggression_percent) / 100.0
    }

    /// The most that are refused; what is left finds out whether it works again. Default 0.8 (Envoy).
    pub fn max_rejection(&self) -> Ratio {
        self.max_rejection
    }

    /// What the share is counted over. Default 30 s (Envoy).
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How many calls the window must hold before the share means anything. Default 100.
    pub fn min_calls(&self) -> u32 {
        self.min_calls
    }

    /// The probability with which a call of `priority` is refused while the window holds `total` calls of which `succeeded` did.
    pub fn rejection(&self, total: u64, succeeded: u64, priority: Priority) -> f64 {
        if total < u64::from(self.min_calls) {
            return 0.0;
        }
        let (threshold, max) = (self.threshold.as_f64(), self.max_rejection.as_f64());
        let normal = rejection_probability(total, succeeded, threshold, self.aggression(), max);
        with_priority(normal, priority, max)
    }
}

/// Collects the values of a [`SuccessRateConfig`]; see its getters for meaning and defaults.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct SuccessRateConfigBuilder {
    config: SuccessRateConfig,
    threshold: f64,
    aggression: f64,
    max_rejection: f64,
}

impl SuccessRateConfigBuilder {
    /// See [`SuccessRateConfig::threshold`]. From 0.01 to 1.
    pub fn threshold(mut self, share: f64) -> Self {
        self.threshold = share;
        self
    }

    /// See [`SuccessRateConfig::aggression`]. From 0.1 to 10, in hundredths.
    pub fn aggression(mut self, aggression: f64) -> Self {
        self.aggression = aggression;
        self
    }

    /// See [`SuccessRateConfig::max_rejection`]. From 0 to 0.99: if all were refused, nothing would ever succeed again.
    pub fn max_rejection(mut self, share: f64) -> Self {
        self.max_rejection = share;
        self
    }

    /// See [`SuccessRateConfig::window`]. From 100 ms to 1 h.
    pub fn window(mut self, window: Duration) -> Self {
        self.config.window = window;
        self
    }

    /// See [`SuccessRateConfig::min_calls`]. 0 is as good as 1.
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.config.min_calls = calls;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<SuccessRateConfig, InvalidConfig> {
        let mut config = self.config;
        let mut check = Mistakes::default();
        check.within("threshold", self.threshold, 0.01..=1.0, "0.01 to 1");
        check.within("aggression", self.aggression, 0.1..=10.0, "0.1 to 10");
        check.within("max_rejection", self.max_rejection, 0.0..=0.99, "0 to 0.99");
        let allowed = Duration::from_millis(100)..=Duration::from_secs(3600);
        check.within("window", config.window, allowed, "100ms to 1h");
        config.threshold = Ratio::new(self.threshold).unwrap_or(Ratio::ONE);
        config.aggression_percent = (self.aggression * 100.0).round() as u32;
        config.max_rejection = Ratio::new(self.max_rejection).unwrap_or(Ratio::ONE);
        check.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = SuccessRateConfig::builder()
            .threshold(0.0)
            .aggression(f64::NAN)
            .max_rejection(1.0)
            .window(Duration::ZERO)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        assert_eq!(fields, ["threshold", "aggression", "max_rejection", "window"]);
    }

    #[test]
    fn the_crate_page_states_the_defaults() {
        let page = include_str!("../../README.md").split("`SuccessRateConfig`").last().expect("a table");
        let config = SuccessRateConfig::default();
        assert_eq!(config, SuccessRateConfig::builder().build().unwrap());
        for (knob, value) in [
            ("threshold", config.threshold().as_f64().to_string()),
            ("aggression", config.aggression().to_string()),
            ("max_rejection", config.max_rejection().as_f64().to_string()),
            ("window", format!("{:?}", config.window())),
            ("min_calls", config.min_calls().to_string()),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
    }
}
