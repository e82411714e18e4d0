//! The knobs of discovery and balancing.

use std::time::Duration;

use tower_mesh_core::classify::AbandonedPolicy;
use tower_mesh_core::error::{InvalidConfig, Mistakes};

use crate::algorithm::Algorithm;
use crate::policy::warm::SlowStart;

/// How long to wait for endpoints, and how to judge their load. A value that exists is right.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_discovery::DiscoveryConfig;
/// let config = DiscoveryConfig::builder().ready_timeout(Duration::from_secs(1)).build()?;
/// assert_eq!(config.ready_timeout(), Duration::from_secs(1));
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiscoveryConfig {
    ready_timeout: Duration,
    latency_decay: Duration,
    failure_penalty: Duration,
    stalled_after: Duration,
    max_endpoints: usize,
    algorithm: Algorithm,
    active_request_bias: f64,
    hash_balance_factor: u32,
    ring_size: usize,
    subset_size: usize,
    overprovisioning: u32,
    panic_threshold: u32,
    slow_start_window: Duration,
    slow_start_aggression: f64,
    slow_start_min_weight: f64,
    merge_window: Duration,
    max_stale: Option<Duration>,
    removal_grace: Duration,
    empty_grace: Duration,
    keep_healthy: bool,
    max_removal_percent: u32,
    removal_interval: Duration,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            ready_timeout: Duration::from_secs(3),
            latency_decay: Duration::from_secs(10),
            failure_penalty: Duration::from_secs(5),
            stalled_after: AbandonedPolicy::default().stalled_after(),
            max_endpoints: 10_000,
            algorithm: Algorithm::P2cEwma,
            active_request_bias: 1.0,
            hash_balance_factor: 0,
            ring_size: 4096,
            subset_size: 0,
            overprovisioning: 140,
            panic_threshold: 50,
            slow_start_window: Duration::ZERO,
            slow_start_aggression: 1.0,
            slow_start_min_weight: 0.1,
            merge_window: Duration::ZERO,
            max_stale: None,
            removal_grace: Duration::ZERO,
            empty_grace: Duration::ZERO,
            keep_healthy: false,
            max_removal_percent: 100,
            removal_interval: Duration::from_secs(60),
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

    /// How an endpoint is chosen for a call. Default [`Algorithm::P2cEwma`].
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How much calls in flight count for [`Algorithm::P2cLeastRequest`]: the load is `(in flight + 1)^bias / weight`. Default 1 (Envoy).
    pub fn active_request_bias(&self) -> f64 {
        self.active_request_bias
    }

    /// For [`Algorithm::RingHash`] and [`Algorithm::Maglev`]: the most calls in flight that an endpoint may have, in percent of the average by weight; a call over it goes to the next endpoint. Default 0: no bound (Envoy).
    pub fn hash_balance_factor(&self) -> u32 {
        self.hash_balance_factor
    }

    /// The least entries on the ring of [`Algorithm::RingHash`], of at least 16 for each endpoint. Default 4096 (the cap that gRPC has).
    pub fn ring_size(&self) -> usize {
        self.ring_size
    }

    /// How many endpoints of each failover level this client uses at most, chosen by rendezvous hashing (gRFC A68). Default 0: all.
    pub fn subset_size(&self) -> usize {
        self.subset_size
    }

    /// What a failover level can carry, in percent of its healthy part: at 140, calls go to the next level when fewer than 72 % are healthy. Default 140 (Envoy).
    pub fn overprovisioning(&self) -> u32 {
        self.overprovisioning
    }

    /// With a smaller part of a failover level available, in percent, and the other levels unable to make up for it, what probes and peers say is not looked at: better all endpoints than too few. Default 50 (Envoy). 0: never.
    pub fn panic_threshold(&self) -> u32 {
        self.panic_threshold
    }

    /// How long the share of an endpoint grows that is new or available again. Default 0: it has its whole share at once. Not for hashing.
    pub fn slow_start_window(&self) -> Duration {
        self.slow_start_window
    }

    /// How the share grows: by `(time / window)^(1 / aggression)`. Default 1, evenly (Envoy).
    pub fn slow_start_aggression(&self) -> f64 {
        self.slow_start_aggression
    }

    /// The least factor while the share grows. Default 0.1 (Envoy).
    pub fn slow_start_min_weight(&self) -> f64 {
        self.slow_start_min_weight
    }

    pub(crate) fn slow_start(&self) -> Option<SlowStart> {
        SlowStart::new(self.slow_start_window, self.slow_start_aggression, self.slow_start_min_weight)
    }

    /// For how long changes are gathered into one new set, those of attributes too. The first answer is never waited with. Default 0: each at once.
    pub fn merge_window(&self) -> Duration {
        self.merge_window
    }

    /// The age at which endpoints of a source that fails or has ended are given up: calls then fail as if it had never answered. Default none: the last
    /// good ones stay in use without bound, as in gRPC, Envoy and Eureka. Time of [resting](crate::Driver::resting) does not count.
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

    /// How much of the set may go within [`removal_interval`](Self::removal_interval), in percent, rounded up, so that one of few always can. Which of more go is left to chance; the others stay and
    /// get calls until the next interval, or until they are named again: when many are gone at once, the source is the likelier one to be wrong (Eureka, whose value is 15).
    /// Default 100: no limit.
    pub fn max_removal_percent(&self) -> u32 {
        self.max_removal_percent
    }

    /// For how long that share is meant; it begins with the first that goes. Default 60 s (Eureka).
    pub fn removal_interval(&self) -> Duration {
        self.removal_interval
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

    /// See [`DiscoveryConfig::algorithm`].
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.0.algorithm = algorithm;
        self
    }

    /// See [`DiscoveryConfig::active_request_bias`]. Above 0, up to 10.
    pub fn active_request_bias(mut self, active_request_bias: f64) -> Self {
        self.0.active_request_bias = active_request_bias;
        self
    }

    /// See [`DiscoveryConfig::hash_balance_factor`]. 0, or from 101 to 10 000.
    pub fn hash_balance_factor(mut self, hash_balance_factor: u32) -> Self {
        self.0.hash_balance_factor = hash_balance_factor;
        self
    }

    /// See [`DiscoveryConfig::ring_size`]. From 1 to 1 000 000.
    pub fn ring_size(mut self, ring_size: usize) -> Self {
        self.0.ring_size = ring_size;
        self
    }

    /// See [`DiscoveryConfig::subset_size`]. From 0 to 1 000 000.
    pub fn subset_size(mut self, subset_size: usize) -> Self {
        self.0.subset_size = subset_size;
        self
    }

    /// See [`DiscoveryConfig::overprovisioning`]. From 100 to 1000.
    pub fn overprovisioning(mut self, overprovisioning: u32) -> Self {
        self.0.overprovisioning = overprovisioning;
        self
    }

    /// See [`DiscoveryConfig::panic_threshold`]. From 0 to 100.
    pub fn panic_threshold(mut self, panic_threshold: u32) -> Self {
        self.0.panic_threshold = panic_threshold;
        self
    }

    /// See [`DiscoveryConfig::slow_start_window`]. From 0 to 1 h.
    pub fn slow_start_window(mut self, slow_start_window: Duration) -> Self {
        self.0.slow_start_window = slow_start_window;
        self
    }

    /// See [`DiscoveryConfig::slow_start_aggression`]. Above 0, up to 100.
    pub fn slow_start_aggression(mut self, slow_start_aggression: f64) -> Self {
        self.0.slow_start_aggression = slow_start_aggression;
        self
    }

    /// See [`DiscoveryConfig::slow_start_min_weight`]. Above 0, up to 1.
    pub fn slow_start_min_weight(mut self, slow_start_min_weight: f64) -> Self {
        self.0.slow_start_min_weight = slow_start_min_weight;
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

    /// See [`DiscoveryConfig::max_removal_percent`]. From 1 to 100.
    pub fn max_removal_percent(mut self, percent: u32) -> Self {
        self.0.max_removal_percent = percent;
        self
    }

    /// See [`DiscoveryConfig::removal_interval`]. From 1 ms to 1 h.
    pub fn removal_interval(mut self, interval: Duration) -> Self {
        self.0.removal_interval = interval;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<DiscoveryConfig, InvalidConfig> {
        let config = self.0;
        let (ms, minutes) = (Duration::from_millis(1), |n: u64| Duration::from_secs(60 * n));
        let mut check = Mistakes::default();
        let zero = Duration::ZERO;
        check.within("ready_timeout", config.ready_timeout, ms..=minutes(5), "1ms to 5m");
        check.within("latency_decay", config.latency_decay, ms..=minutes(60), "1ms to 1h");
        check.within("failure_penalty", config.failure_penalty, zero..=minutes(5), "0s to 5m");
        check.within("max_endpoints", config.max_endpoints, 1..=1_000_000, "1 to 1000000");
        let positive = |value: f64, most: f64| value > 0.0 && value <= most;
        let bias = config.active_request_bias;
        check.unless(positive(bias, 10.0), "active_request_bias", bias, "above 0, up to 10");
        let factor = config.hash_balance_factor;
        let right = factor == 0 || (101..=10_000).contains(&factor);
        check.unless(right, "hash_balance_factor", factor, "0, or 101 to 10000");
        check.within("ring_size", config.ring_size, 1..=1_000_000, "1 to 1000000");
        check.within("subset_size", config.subset_size, 0..=1_000_000, "0 to 1000000");
        check.within("overprovisioning", config.overprovisioning, 100..=1000, "100 to 1000");
        check.within("panic_threshold", config.panic_threshold, 0..=100, "0 to 100");
        check.within("slow_start_window", config.slow_start_window, zero..=minutes(60), "0s to 1h");
        let aggression = config.slow_start_aggression;
        check.unless(positive(aggression, 100.0), "slow_start_aggression", aggression, "above 0, up to 100");
        let least = config.slow_start_min_weight;
        check.unless(positive(least, 1.0), "slow_start_min_weight", least, "above 0, up to 1");
        check.within("merge_window", config.merge_window, zero..=Duration::from_secs(10), "0s to 10s");
        if let Some(age) = config.max_stale {
            check.within("max_stale", age, Duration::from_secs(1)..=minutes(7 * 24 * 60), "1s to 7days");
        }
        check.within("removal_grace", config.removal_grace, zero..=minutes(60), "0s to 1h");
        check.within("empty_grace", config.empty_grace, zero..=minutes(60), "0s to 1h");
        check.within("max_removal_percent", config.max_removal_percent, 1..=100, "1 to 100");
        check.within("removal_interval", config.removal_interval, ms..=minutes(60), "1ms to 1h");
        check.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = DiscoveryConfig::builder()
            .ready_timeout(Duration::ZERO)
            .max_endpoints(0)
            .max_stale(Duration::ZERO)
            .max_removal_percent(0)
            .removal_interval(Duration::ZERO)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        assert_eq!(
            fields,
            ["ready_timeout", "max_endpoints", "max_stale", "max_removal_percent", "removal_interval"]
        );
        let wrong = DiscoveryConfig::builder()
            .active_request_bias(0.0)
            .hash_balance_factor(100)
            .ring_size(0)
            .subset_size(1_000_001)
            .overprovisioning(99)
            .panic_threshold(101)
            .slow_start_window(Duration::from_secs(3601))
            .slow_start_aggression(f64::NAN)
            .slow_start_min_weight(1.5)
            .build();
        assert_eq!(wrong.unwrap_err().mistakes().len(), 9);
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
            ("algorithm", format!("{:?}", config.algorithm())),
            ("active_request_bias", config.active_request_bias().to_string()),
            ("hash_balance_factor", config.hash_balance_factor().to_string()),
            ("ring_size", config.ring_size().to_string()),
            ("subset_size", config.subset_size().to_string()),
            ("overprovisioning", config.overprovisioning().to_string()),
            ("panic_threshold", config.panic_threshold().to_string()),
            ("slow_start_window", format!("{:?}", config.slow_start_window())),
            ("slow_start_aggression", config.slow_start_aggression().to_string()),
            ("slow_start_min_weight", config.slow_start_min_weight().to_string()),
            ("merge_window", format!("{:?}", config.merge_window())),
            ("max_stale", config.max_stale().map_or("none".into(), |age| format!("{age:?}"))),
            ("removal_grace", format!("{:?}", config.removal_grace())),
            ("empty_grace", format!("{:?}", config.empty_grace())),
            ("keep_healthy", config.keep_healthy().to_string()),
            ("max_removal_percent", config.max_removal_percent().to_string()),
            ("removal_interval", format!("{:?}", config.removal_interval())),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
    }
}
