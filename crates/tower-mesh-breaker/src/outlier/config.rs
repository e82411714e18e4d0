//! When a member of a set of endpoints is an outlier, and for how long it is left out.

use std::time::Duration;

use tower_mesh_core::Ratio;
use tower_mesh_core::classify::AbandonedPolicy;
use tower_mesh_core::error::{InvalidConfig, Mistakes};

/// Whose rules are followed where the two systems that ejection comes from disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// Envoy's: the share is looked at as it would be after the ejection; `≥`; the multiplier stops growing where it has no effect, and falls only after a
    /// whole interval in service.
    #[default]
    Envoy,
    /// gRPC's (proposal A50): the share is looked at as it is before the ejection, so that it may be exceeded by one; `>`; the multiplier grows without
    /// bound, and falls with each sweep in service. `at_least_one` has no effect.
    Grpc,
}

/// The knobs of outlier ejection. A value that exists is right.
///
/// ```
/// use tower_mesh_breaker::outlier::OutlierConfig;
/// let config = OutlierConfig::builder().consecutive_failures(3).max_ejection_percent(50).build()?;
/// assert_eq!(config.max_ejection_percent(), 50);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierConfig {
    interval: Duration,
    consecutive_failures: u32,
    consecutive_local: u32,
    split_local: bool,
    success_rate_factor: f64,
    success_rate_min_hosts: u32,
    success_rate_min_calls: u32,
    failure_threshold: Ratio,
    failure_min_hosts: u32,
    failure_min_calls: u32,
    latency_factor: Option<f64>,
    latency_min_hosts: u32,
    latency_min_calls: u32,
    enforce_consecutive: Ratio,
    enforce_consecutive_local: Ratio,
    enforce_success_rate: Ratio,
    enforce_failure_share: Ratio,
    enforce_latency: Ratio,
    base_ejection_time: Duration,
    max_ejection_time: Duration,
    max_ejection_jitter: Duration,
    max_ejection_percent: u32,
    at_least_one: bool,
    believe_probes: bool,
    stalled_after: Duration,
    dialect: Dialect,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            consecutive_failures: 5,
            consecutive_local: 0,
            split_local: false,
            success_rate_factor: 1.9,
            success_rate_min_hosts: 5,
            success_rate_min_calls: 100,
            failure_threshold: Ratio::percent(85),
            failure_min_hosts: 5,
            failure_min_calls: 50,
            latency_factor: None,
            latency_min_hosts: 5,
            latency_min_calls: 50,
            enforce_consecutive: Ratio::ONE,
            enforce_consecutive_local: Ratio::ONE,
            enforce_success_rate: Ratio::ONE,
            enforce_failure_share: Ratio::ZERO,
            enforce_latency: Ratio::ONE,
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: 30,
            at_least_one: true,
            believe_probes: true,
            stalled_after: AbandonedPolicy::default().stalled_after(),
            dialect: Dialect::Envoy,
        }
    }
}

impl OutlierConfig {
    /// Starts from the defaults.
    pub fn builder() -> OutlierConfigBuilder {
        let config = Self::default();
        OutlierConfigBuilder {
            failure_threshold: config.failure_threshold.as_f64(),
            enforce: [
                config.enforce_consecutive,
                config.enforce_consecutive_local,
                config.enforce_success_rate,
                config.enforce_failure_share,
                config.enforce_latency,
            ]
            .map(Ratio::as_f64),
            config,
        }
    }

    /// How often the set is looked over. Default 10 s (Envoy, gRPC).
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Failures in a row that make an outlier at once, between sweeps; 0 for never. Overload answers do not count. Default 5 (Envoy).
    pub fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    /// Failures of local origin in a row (connect, reset, timeout) that make an outlier; an answer, even a bad one, begins the row anew. 0 for never.
    /// Default 0: they are in `consecutive_failures` already.
    pub fn consecutive_local(&self) -> u32 {
        self.consecutive_local
    }

    /// Whether failures of local origin are judged by themselves, and only what the endpoints answered by the other rules. Default false (Envoy).
    pub fn split_local(&self) -> bool {
        self.split_local
    }

    /// How many standard deviations below the mean a success rate must lie (`<`). Default 1.9 (Envoy, gRPC).
    pub fn success_rate_factor(&self) -> f64 {
        self.success_rate_factor
    }

    /// How many endpoints must have had enough calls for success rates to be compared. Default 5 (Envoy, gRPC).
    ///
    /// Of N endpoints of which one is bad and the others are alike, the bad one lies √(N − 1) deviations below the mean however bad it is. With less than
    /// [`lone_outlier_hosts`](Self::lone_outlier_hosts) there are sweeps that can find none; this is told to `tracing` when it is so.
    pub fn success_rate_min_hosts(&self) -> u32 {
        self.success_rate_min_hosts
    }

    /// How many endpoints there must be for a single bad one among like ones to be an outlier by its success rate: ⌊k²⌋ + 2, with k the
    /// [`success_rate_factor`](Self::success_rate_factor).
    pub fn lone_outlier_hosts(&self) -> u32 {
        (self.success_rate_factor * self.success_rate_factor) as u32 + 2
    }

    /// How many calls an endpoint must have had between two sweeps for its success rate to mean anything. Default 100 (Envoy, gRPC).
    pub fn success_rate_min_calls(&self) -> u32 {
        self.success_rate_min_calls
    }

    /// The share of failed calls that makes an outlier (`≥`). Default 0.85 (Envoy, gRPC).
    pub fn failure_threshold(&self) -> Ratio {
        self.failure_threshold
    }

    /// How many endpoints must have had enough calls for the share of failures to be looked at. Default 5 (Envoy, gRPC).
    pub fn failure_min_hosts(&self) -> u32 {
        self.failure_min_hosts
    }

    /// How many calls an endpoint must have had between two sweeps for its share of failures to mean anything. Default 50 (Envoy, gRPC).
    pub fn failure_min_calls(&self) -> u32 {
        self.failure_min_calls
    }

    /// How many times the median of its peers the mean latency of an endpoint's good calls must be (`>`). Default none: latency makes no outlier.
    pub fn latency_factor(&self) -> Option<f64> {
        self.latency_factor
    }

    /// How many endpoints must have had enough good calls for latencies to be compared. Default 5.
    pub fn latency_min_hosts(&self) -> u32 {
        self.latency_min_hosts
    }

    /// How many good calls an endpoint must have had between two sweeps for its latency to mean anything. Default 50.
    pub fn latency_min_calls(&self) -> u32 {
        self.latency_min_calls
    }

    /// The share of outliers by failures in a row that are ejected; the others are only counted (dry run). Default 1 (Envoy).
    pub fn enforce_consecutive(&self) -> Ratio {
        self.enforce_consecutive
    }

    /// The same for failures of local origin in a row. Default 1 (Envoy).
    pub fn enforce_consecutive_local(&self) -> Ratio {
        self.enforce_consecutive_local
    }

    /// The same for success rates. Default 1 (Envoy).
    pub fn enforce_success_rate(&self) -> Ratio {
        self.enforce_success_rate
    }

    /// The same for shares of failures. Default 0 (Envoy).
    pub fn enforce_failure_share(&self) -> Ratio {
        self.enforce_failure_share
    }

    /// The same for latencies. Default 1.
    pub fn enforce_latency(&self) -> Ratio {
        self.enforce_latency
    }

    /// How long the first ejection lasts; the next so many times as long. It ends with a sweep, so up to an interval later. Default 30 s (Envoy, gRPC).
    pub fn base_ejection_time(&self) -> Duration {
        self.base_ejection_time
    }

    /// The longest an ejection lasts, before jitter; a base above it is not cut. Default 300 s (Envoy, gRPC).
    pub fn max_ejection_time(&self) -> Duration {
        self.max_ejection_time
    }

    /// How much longer an ejection may last by chance, drawn once for each. Default 0 (Envoy).
    pub fn max_ejection_jitter(&self) -> Duration {
        self.max_ejection_jitter
    }

    /// How many of a hundred endpoints may be ejected at a time, the next one included. Default 30; Envoy's 10 never ejects any of nine.
    pub fn max_ejection_percent(&self) -> u32 {
        self.max_ejection_percent
    }

    /// Whether one may be ejected even where that is a larger share. Whatever this says, the last one that takes calls never is. Default true.
    pub fn at_least_one(&self) -> bool {
        self.at_least_one
    }

    /// Whether an active probe that began after the ejection and passes ends it. Default true (Envoy).
    pub fn believe_probes(&self) -> bool {
        self.believe_probes
    }

    /// How long nothing must have arrived for a caller's leaving to count as a failure. Default 500 ms. A breaker that counts for the set goes by its own.
    pub fn stalled_after(&self) -> Duration {
        self.stalled_after
    }

    /// Whose rules are followed where Envoy and gRPC disagree. Default Envoy's.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }
}

/// Collects the values of an [`OutlierConfig`]; see its getters for meaning and defaults.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct OutlierConfigBuilder {
    config: OutlierConfig,
    failure_threshold: f64,
    /// Consecutive, consecutive local, success rate, failure share, latency.
    enforce: [f64; 5],
}

/// Setters that take the value as it is: `setters!(name: type, "range"; …)`.
macro_rules! setters {
    ($($field:ident: $type:ty, $range:literal;)+) => {
        $(
            #[doc = concat!("See [`OutlierConfig::", stringify!($field), "`]. ", $range)]
            pub fn $field(mut self, value: $type) -> Self {
                self.config.$field = value;
                self
            }
        )+
    };
}

/// Setters of the enforced shares.
macro_rules! enforced {
    ($($field:ident: $index:literal;)+) => {
        $(
            #[doc = concat!("See [`OutlierConfig::", stringify!($field), "`]. From 0 to 1.")]
            pub fn $field(mut self, ratio: f64) -> Self {
                self.enforce[$index] = ratio;
                self
            }
        )+
    };
}

impl OutlierConfigBuilder {
    setters! {
        interval: Duration, "From 10 ms to 1 h.";
        consecutive_failures: u32, "";
        consecutive_local: u32, "";
        split_local: bool, "";
        success_rate_factor: f64, "Over 0, up to 100.";
        success_rate_min_hosts: u32, "";
        success_rate_min_calls: u32, "0 is as good as 1.";
        failure_min_hosts: u32, "";
        failure_min_calls: u32, "0 is as good as 1.";
        latency_min_hosts: u32, "At least 2.";
        latency_min_calls: u32, "0 is as good as 1.";
        base_ejection_time: Duration, "From 10 ms to 24 h.";
        max_ejection_time: Duration, "From 10 ms to 24 h.";
        max_ejection_jitter: Duration, "Up to 24 h.";
        max_ejection_percent: u32, "From 0 to 100.";
        at_least_one: bool, "";
        believe_probes: bool, "";
        stalled_after: Duration, "";
        dialect: Dialect, "";
    }

    enforced! {
        enforce_consecutive: 0;
        enforce_consecutive_local: 1;
        enforce_success_rate: 2;
        enforce_failure_share: 3;
        enforce_latency: 4;
    }

    /// See [`OutlierConfig::failure_threshold`]. Over 0, up to 1; with gRPC's rules also 0.
    pub fn failure_threshold(mut self, ratio: f64) -> Self {
        self.failure_threshold = ratio;
        self
    }

    /// See [`OutlierConfig::latency_factor`]. Over 1, up to 1000.
    pub fn latency_factor(mut self, factor: impl Into<Option<f64>>) -> Self {
        self.config.latency_factor = factor.into();
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<OutlierConfig, InvalidConfig> {
        let mut config = self.config;
        let mut check = Mistakes::default();
        match Ratio::new(self.failure_threshold) {
            Ok(ratio) if ratio > Ratio::ZERO || config.dialect == Dialect::Grpc => {
                config.failure_threshold = ratio;
            }
            _ => check.unless(false, "failure_threshold", self.failure_threshold, "over 0, up to 1"),
        }
        let enforced = [
            ("enforce_consecutive", &mut config.enforce_consecutive),
            ("enforce_consecutive_local", &mut config.enforce_consecutive_local),
            ("enforce_success_rate", &mut config.enforce_success_rate),
            ("enforce_failure_share", &mut config.enforce_failure_share),
            ("enforce_latency", &mut config.enforce_latency),
        ];
        for ((field, ratio), value) in enforced.into_iter().zip(self.enforce) {
            match Ratio::new(value) {
                Ok(valid) => *ratio = valid,
                Err(_) => check.unless(false, field, value, "0 to 1"),
            }
        }
        let factor = config.success_rate_factor;
        check.unless(factor > 0.0 && factor <= 100.0, "success_rate_factor", factor, "over 0, up to 100");
        if let Some(factor) = config.latency_factor {
            check.unless(factor > 1.0 && factor <= 1000.0, "latency_factor", factor, "over 1, up to 1000");
        }
        check.unless(
            config.latency_min_hosts >= 2,
            "latency_min_hosts",
            config.latency_min_hosts,
            "at least 2",
        );
        check.within("max_ejection_percent", config.max_ejection_percent, 0..=100, "0 to 100");
        let (least, hour) = (Duration::from_millis(10), Duration::from_secs(3600));
        check.within("interval", config.interval, least..=hour, "10ms to 1h");
        check.within("base_ejection_time", config.base_ejection_time, least..=24 * hour, "10ms to 24h");
        check.within("max_ejection_time", config.max_ejection_time, least..=24 * hour, "10ms to 24h");
        let jitter = Duration::ZERO..=24 * hour;
        check.within("max_ejection_jitter", config.max_ejection_jitter, jitter, "up to 24h");
        check.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = OutlierConfig::builder()
            .failure_threshold(0.0)
            .enforce_latency(1.5)
            .success_rate_factor(f64::NAN)
            .latency_factor(1.0)
            .max_ejection_percent(101)
            .interval(Duration::ZERO)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        let expected = [
            "failure_threshold",
            "enforce_latency",
            "success_rate_factor",
            "latency_factor",
            "max_ejection_percent",
            "interval",
        ];
        assert_eq!(fields, expected);
        assert!(OutlierConfig::builder().failure_threshold(0.0).dialect(Dialect::Grpc).build().is_ok());
    }

    #[test]
    fn the_crate_page_states_the_defaults() {
        let page = include_str!("../../README.md");
        let config = OutlierConfig::default();
        let ratio = |ratio: Ratio| ratio.as_f64().to_string();
        for (knob, value) in [
            ("interval", format!("{:?}", config.interval())),
            ("consecutive_failures", config.consecutive_failures().to_string()),
            ("consecutive_local", config.consecutive_local().to_string()),
            ("split_local", config.split_local().to_string()),
            ("success_rate_factor", config.success_rate_factor().to_string()),
            ("success_rate_min_hosts", config.success_rate_min_hosts().to_string()),
            ("success_rate_min_calls", config.success_rate_min_calls().to_string()),
            ("failure_threshold", ratio(config.failure_threshold())),
            ("failure_min_hosts", config.failure_min_hosts().to_string()),
            ("failure_min_calls", config.failure_min_calls().to_string()),
            ("latency_factor", config.latency_factor().map_or("none".into(), |factor| factor.to_string())),
            ("latency_min_hosts", config.latency_min_hosts().to_string()),
            ("latency_min_calls", config.latency_min_calls().to_string()),
            ("enforce_consecutive", ratio(config.enforce_consecutive())),
            ("enforce_consecutive_local", ratio(config.enforce_consecutive_local())),
            ("enforce_success_rate", ratio(config.enforce_success_rate())),
            ("enforce_failure_share", ratio(config.enforce_failure_share())),
            ("enforce_latency", ratio(config.enforce_latency())),
            ("base_ejection_time", format!("{:?}", config.base_ejection_time())),
            ("max_ejection_time", format!("{:?}", config.max_ejection_time())),
            ("max_ejection_jitter", format!("{:?}", config.max_ejection_jitter())),
            ("max_ejection_percent", config.max_ejection_percent().to_string()),
            ("at_least_one", config.at_least_one().to_string()),
            ("believe_probes", config.believe_probes().to_string()),
            ("stalled_after", format!("{:?}", config.stalled_after())),
            ("dialect", format!("{:?}", config.dialect()).to_lowercase()),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
        assert!(config.success_rate_min_hosts() >= config.lone_outlier_hosts());
    }
}
