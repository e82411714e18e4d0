//! The knobs of discovery and balancing.

use std::time::Duration;

use tower_mesh_core::classify::AbandonedPolicy;
use tower_mesh_core::error::{InvalidConfig, Mistake};

/// How long to wait for endpoints, and how to judge their load. A value that exists is right.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_discovery::DiscoveryConfig;
/// let config = DiscoveryConfig::builder().ready_timeout(Duration::from_secs(1)).build()?;
/// assert_eq!(config.ready_timeout(), Duration::from_secs(1));
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveryConfig {
    ready_timeout: Duration,
    latency_decay: Duration,
    failure_penalty: Duration,
    stalled_after: Duration,
    max_endpoints: usize,
    merge_window: Duration,
    max_stale: Option<Duration>,
    removal_grace: Duration,
    empty_grace: Duration,
    keep_healthy: bool,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            ready_timeout: Duration::from_secs(3),
            latency_decay: Duration::from_secs(10),
            failure_penalty: Duration::from_secs(5),
            stalled_after: AbandonedPolicy::default().stalled_after(),
            max_endpoints: 10_000,
            merge_window: Duration::ZERO,
            max_stale: None,
            removal_grace: Duration::ZERO,
            empty_grace: Duration::ZERO,
            keep_healthy: false,
        }
    }
}

impl DiscoveryConfig {
    /// Starts from the defaults.
    pub fn builder() -> DiscoveryConfigBuilder {
        DiscoveryConfigBuilder(Self::default())
    }

    pub(crate) fn without_merging(self) -> Self {
        Self { merge_window: Duration::ZERO, ..self }
    }

    /// How long a call waits for the first resolution, or for a picked endpoint to be ready. Default 3 s.
    pub fn ready_timeout(&self) -> Duration {
        self.ready_timeout
    }

    /// The time constant with which latency estimates decay. Default 10 s (Finagle, Linkerd).
    pub fn latency_decay(&self) -> Duration {
        self.latency_decay
    }

    /// The latency that a failed call counts as, if it took less. Default 5 s (Linkerd). Zero lets a fast failure look fast.
    pub fn failure_penalty(&self) -> Duration {
        self.failure_penalty
    }

    /// How long nothing must have arrived for a caller's leaving to count as the endpoint's failure. Default 500 ms.
    pub fn stalled_after(&self) -> Duration {
        self.stalled_after
    }

    /// The most endpoints taken from the source; what is over is left out and told. Default 10 000.
    pub fn max_endpoints(&self) -> usize {
        self.max_endpoints
    }

    /// For how long changes are gathered into one new set. The first answer is never waited with, and attributes take effect at once. Default 0: each at once.
    pub fn merge_window(&self) -> Duration {
        self.merge_window
    }

    /// The age at which endpoints of a source that fails or has ended are given up: calls then fail as if it had never answered. Default none: the last
    /// good ones stay in use without bound, as in gRPC, Envoy and Eureka.
    pub fn max_stale(&self) -> Option<Duration> {
        self.max_stale
    }

    /// How long an endpoint stays that the source no longer names. It goes only while the source is well, the time begins anew when the source gets well
    /// again, and an endpoint that is named again stays (Finagle's stabilizing set). Default 0: it goes at once.
    pub fn removal_grace(&self) -> Duration {
        self.removal_grace
    }

    /// The same for an answer that names nobody, or that there is no such service, if longer: a whole fleet seldom goes at once. Default 0: believed at once.
    pub fn empty_grace(&self) -> Duration {
        self.empty_grace
    }

    /// Whether an endpoint that the source no longer names stays after its grace for as long as nothing keeps calls away from it: no failing probe, no open
    /// circuit, no ejection (Envoy's matrix). For where endpoints are probed. Looked at every second. Default false.
    pub fn keep_healthy(&self) -> bool {
        self.keep_healthy
    }
}

/// Collects the values of a [`DiscoveryConfig`]; see its getters for meaning and defaults.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct DiscoveryConfigBuilder(DiscoveryConfig);

impl DiscoveryConfigBuilder {
    /// See [`DiscoveryConfig::ready_timeout`]. From 1 ms to 5 min.
    pub fn ready_timeout(mut self, bound: Duration) -> Self {
        self.0.ready_timeout = bound;
        self
    }

    /// See [`DiscoveryConfig::latency_decay`]. From 1 ms to 1 h.
    pub fn latency_decay(mut self, tau: Duration) -> Self {
        self.0.latency_decay = tau;
        self
    }

    /// See [`DiscoveryConfig::failure_penalty`]. From 0 to 5 min.
    pub fn failure_penalty(mut self, latency: Duration) -> Self {
        self.0.failure_penalty = latency;
        self
    }

    /// See [`DiscoveryConfig::stalled_after`].
    pub fn stalled_after(mut self, quiet: Duration) -> Self {
        self.0.stalled_after = quiet;
        self
    }

    /// See [`DiscoveryConfig::max_endpoints`]. From 1 to 1 000 000.
    pub fn max_endpoints(mut self, max: usize) -> Self {
        self.0.max_endpoints = max;
        self
    }

    /// See [`DiscoveryConfig::merge_window`]. Up to 10 s.
    pub fn merge_window(mut self, window: Duration) -> Self {
        self.0.merge_window = window;
        self
    }

    /// See [`DiscoveryConfig::max_stale`]. From 1 s to 7 days.
    pub fn max_stale(mut self, age: Duration) -> Self {
        self.0.max_stale = Some(age);
        self
    }

    /// See [`DiscoveryConfig::removal_grace`]. Up to 1 h.
    pub fn removal_grace(mut self, grace: Duration) -> Self {
        self.0.removal_grace = grace;
        self
    }

    /// See [`DiscoveryConfig::empty_grace`]. Up to 1 h.
    pub fn empty_grace(mut self, grace: Duration) -> Self {
        self.0.empty_grace = grace;
        self
    }

    /// See [`DiscoveryConfig::keep_healthy`].
    pub fn keep_healthy(mut self, keep: bool) -> Self {
        self.0.keep_healthy = keep;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<DiscoveryConfig, InvalidConfig> {
        let config = self.0;
        let (ms, minutes) = (Duration::from_millis(1), |n: u64| Duration::from_secs(60 * n));
        let mut mistakes = Vec::new();
        if !(ms..=minutes(5)).contains(&config.ready_timeout) {
            mistakes.push(Mistake::new(
                "ready_timeout",
                format_args!("{:?}", config.ready_timeout),
                "1ms to 5m",
            ));
        }
        if !(ms..=minutes(60)).contains(&config.latency_decay) {
            mistakes.push(Mistake::new(
                "latency_decay",
                format_args!("{:?}", config.latency_decay),
                "1ms to 1h",
            ));
        }
        if config.failure_penalty > minutes(5) {
            mistakes.push(Mistake::new(
                "failure_penalty",
                format_args!("{:?}", config.failure_penalty),
                "0s to 5m",
            ));
        }
        if !(1..=1_000_000).contains(&config.max_endpoints) {
            mistakes.push(Mistake::new("max_endpoints", config.max_endpoints, "1 to 1000000"));
        }
        let stale = config.max_stale.unwrap_or(minutes(1));
        for (field, found, least, most, allowed) in [
            ("merge_window", config.merge_window, Duration::ZERO, Duration::from_secs(10), "0s to 10s"),
            ("max_stale", stale, Duration::from_secs(1), minutes(7 * 24 * 60), "1s to 7days"),
            ("removal_grace", config.removal_grace, Duration::ZERO, minutes(60), "0s to 1h"),
            ("empty_grace", config.empty_grace, Duration::ZERO, minutes(60), "0s to 1h"),
        ] {
            if !(least..=most).contains(&found) {
                mistakes.push(Mistake::new(field, format_args!("{found:?}"), allowed));
            }
        }
        InvalidConfig::check(mistakes)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = DiscoveryConfig::builder()
            .ready_timeout(Duration::ZERO)
            .max_endpoints(0)
            .max_stale(Duration::ZERO)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        assert_eq!(fields, ["ready_timeout", "max_endpoints", "max_stale"]);
    }

    #[test]
    fn the_crate_page_states_the_defaults() {
        let page = include_str!("../README.md");
        let config = DiscoveryConfig::default();
        for (knob, value) in [
            ("ready_timeout", format!("{:?}", config.ready_timeout())),
            ("latency_decay", format!("{:?}", config.latency_decay())),
            ("failure_penalty", format!("{:?}", config.failure_penalty())),
            ("stalled_after", format!("{:?}", config.stalled_after())),
            ("max_endpoints", config.max_endpoints().to_string()),
            ("merge_window", format!("{:?}", config.merge_window())),
            ("max_stale", config.max_stale().map_or("none".into(), |age| format!("{age:?}"))),
            ("removal_grace", format!("{:?}", config.removal_grace())),
            ("empty_grace", format!("{:?}", config.empty_grace())),
            ("keep_healthy", config.keep_healthy().to_string()),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
    }
}
