use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use tower_mesh_core::Ratio;
use tower_mesh_core::error::{InvalidConfig, Mistakes};

use crate::policy::{Cadence, HealthState};

/// What is taken for granted of an endpoint until its first check has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Initial {
    /// Nothing; it may be picked.
    #[default]
    Unknown,
    /// That it is well.
    Healthy,
    /// That it is down: no calls before a check has passed.
    Unhealthy,
}

impl Initial {
    /// Each with its name in configurations.
    pub const ALL: [(&'static str, Self); 3] =
        [("unknown", Self::Unknown), ("healthy", Self::Healthy), ("unhealthy", Self::Unhealthy)];

    pub(crate) const fn state(self) -> HealthState {
        match self {
            Self::Unknown => HealthState::Unknown,
            Self::Healthy => HealthState::Healthy,
            Self::Unhealthy => HealthState::Unhealthy,
        }
    }
}

/// How endpoints are checked. Defaults are in the [crate page](crate).
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_health::HealthConfig;
/// let config = HealthConfig::builder()
///     .interval(Duration::from_secs(2))
///     .fall(5)
///     .build()?;
/// assert_eq!(config.fall(), 5);
///
/// let wrong = HealthConfig::builder().rise(0).jitter(2.0).build().unwrap_err();
/// assert_eq!(wrong.mistakes().len(), 2);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthConfig {
    interval: Duration,
    unhealthy_interval: Duration,
    healthy_edge_interval: Option<Duration>,
    unhealthy_edge_interval: Option<Duration>,
    no_traffic_interval: Option<Duration>,
    unknown_interval: Duration,
    initial: Initial,
    traffic_threshold: Option<Ratio>,
    traffic_min_calls: NonZeroU32,
    timeout: Duration,
    rise: NonZeroU32,
    fall: NonZeroU32,
    jitter: Ratio,
    initial_spread: Duration,
    max_concurrent: NonZeroUsize,
}

impl HealthConfig {
    /// The longest interval, timeout or spread: a day.
    pub const MAX_DURATION: Duration = Duration::from_secs(86_400);
    /// The most checks that may run at once.
    pub const MAX_CONCURRENT: usize = 65_536;

    /// A builder that starts from the defaults.
    pub fn builder() -> HealthConfigBuilder {
        HealthConfigBuilder::default()
    }

    /// From the end of one check to the next while the endpoint is up.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The same while it is down.
    pub fn unhealthy_interval(&self) -> Duration {
        self.unhealthy_interval
    }

    /// The same while it is down and its latest checks passed.
    pub fn healthy_edge_interval(&self) -> Duration {
        self.healthy_edge_interval.unwrap_or_else(|| self.edge_interval())
    }

    /// The same while it is up and its latest checks failed.
    pub fn unhealthy_edge_interval(&self) -> Duration {
        self.unhealthy_edge_interval.unwrap_or_else(|| self.edge_interval())
    }

    /// The same while it is up and has never been called.
    pub fn no_traffic_interval(&self) -> Duration {
        self.no_traffic_interval.unwrap_or(self.interval)
    }

    /// The same while no check has told anything yet.
    pub fn unknown_interval(&self) -> Duration {
        self.unknown_interval
    }

    /// What is taken for granted until the first check has ended.
    pub fn initial(&self) -> Initial {
        self.initial
    }

    /// The share of failed calls from which an endpoint is degraded; none: calls are not looked at.
    pub fn traffic_threshold(&self) -> Option<Ratio> {
        self.traffic_threshold
    }

    /// From how many calls on their failures are looked at.
    pub fn traffic_min_calls(&self) -> u32 {
        self.traffic_min_calls.get()
    }

    /// How long one check may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Passes in a row that bring an endpoint back.
    pub fn rise(&self) -> u32 {
        self.rise.get()
    }

    /// Checks in a row without an answer that take an endpoint out.
    pub fn fall(&self) -> u32 {
        self.fall.get()
    }

    /// By how much of itself an interval is lengthened at most.
    pub fn jitter(&self) -> Ratio {
        self.jitter
    }

    /// Over which time the first checks are spread.
    pub fn initial_spread(&self) -> Duration {
        self.initial_spread
    }

    /// Checks that run at once, at most.
    pub fn max_concurrent(&self) -> usize {
        self.max_concurrent.get()
    }

    pub(crate) fn thresholds(&self) -> (NonZeroU32, NonZeroU32) {
        (self.rise, self.fall)
    }

    pub(crate) fn cadence(&self) -> Cadence {
        Cadence {
            interval: self.interval(),
            unhealthy_interval: self.unhealthy_interval(),
            healthy_edge_interval: self.healthy_edge_interval(),
            unhealthy_edge_interval: self.unhealthy_edge_interval(),
            no_traffic_interval: self.no_traffic_interval(),
            unknown_interval: self.unknown_interval,
        }
    }

    /// While a change is under way it pays to look often: as often as the more eager of the two ordinary intervals.
    fn edge_interval(&self) -> Duration {
        self.unhealthy_interval.min(self.interval)
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self::builder().build().expect("the defaults are allowed")
    }
}

/// Builds a [`HealthConfig`]. The setters take anything; [`build`](Self::build) names every mistake.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct HealthConfigBuilder {
    interval: Duration,
    unhealthy_interval: Duration,
    healthy_edge_interval: Option<Duration>,
    unhealthy_edge_interval: Option<Duration>,
    no_traffic_interval: Option<Duration>,
    unknown_interval: Duration,
    initial: Initial,
    traffic_threshold: Option<f64>,
    traffic_min_calls: u32,
    timeout: Duration,
    rise: u32,
    fall: u32,
    jitter: f64,
    initial_spread: Duration,
    max_concurrent: usize,
}

impl Default for HealthConfigBuilder {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            unhealthy_interval: Duration::from_secs(1),
            healthy_edge_interval: None,
            unhealthy_edge_interval: None,
            no_traffic_interval: None,
            unknown_interval: Duration::from_secs(1),
            initial: Initial::Unknown,
            traffic_threshold: None,
            traffic_min_calls: 10,
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            jitter: 0.1,
            initial_spread: Duration::ZERO,
            max_concurrent: 64,
        }
    }
}

impl HealthConfigBuilder {
    /// From the end of one check to the next while the endpoint is up. 1 ms to a day; default 5 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The same while it is down. 1 ms to a day; default 1 s.
    pub fn unhealthy_interval(mut self, interval: Duration) -> Self {
        self.unhealthy_interval = interval;
        self
    }

    /// The same while it is down and its latest checks passed, but are fewer than `rise`. 1 ms to a day; default the shorter of
    /// `interval` and `unhealthy_interval`.
    pub fn healthy_edge_interval(mut self, interval: Duration) -> Self {
        self.healthy_edge_interval = Some(interval);
        self
    }

    /// The same while it is up and its latest checks failed, but are fewer than `fall`. 1 ms to a day; default the shorter of `interval`
    /// and `unhealthy_interval`.
    pub fn unhealthy_edge_interval(mut self, interval: Duration) -> Self {
        self.unhealthy_edge_interval = Some(interval);
        self
    }

    /// The same while it is up and no call has been sent to it yet, to spare endpoints that nobody uses. 1 ms to a day; default
    /// `interval`.
    pub fn no_traffic_interval(mut self, interval: Duration) -> Self {
        self.no_traffic_interval = Some(interval);
        self
    }

    /// The same while no check has told anything yet, because none could be made. 1 ms to a day; default 1 s.
    pub fn unknown_interval(mut self, interval: Duration) -> Self {
        self.unknown_interval = interval;
        self
    }

    /// What is taken for granted of an endpoint until its first check has ended, which decides at once. Default unknown.
    pub fn initial(mut self, initial: Initial) -> Self {
        self.initial = initial;
        self
    }

    /// An endpoint that passes its checks is degraded all the same, until the next check, if since the one before at least this share of its calls failed:
    /// calls see what a check does not. Over 0, up to 1; default none: calls are not looked at.
    ///
    /// What failed is what the balancer's classifier says. Its circuit breaker, if it has one, takes it out by rules of its own.
    pub fn traffic_threshold(mut self, share: f64) -> Self {
        self.traffic_threshold = Some(share);
        self
    }

    /// From how many calls between two checks on their failures are looked at. At least 1; default 10.
    pub fn traffic_min_calls(mut self, calls: u32) -> Self {
        self.traffic_min_calls = calls;
        self
    }

    /// How long one check may take; then it counts as unreachable. 1 ms to a day; default 1 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Passes in a row that bring an endpoint back. At least 1; default 2.
    pub fn rise(mut self, rise: u32) -> Self {
        self.rise = rise;
        self
    }

    /// Checks in a row without an answer that take an endpoint out. At least 1; default 3. An answer that says no takes it out at once.
    pub fn fall(mut self, fall: u32) -> Self {
        self.fall = fall;
        self
    }

    /// Every interval is lengthened by a random part of this share of itself, never shortened. 0 to 1; default 0.1.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// The first check of an endpoint comes a random part of this time after it is registered, so that a start does not check all at once.
    /// Up to a day; default 0: at once, as many as `max_concurrent` allows.
    pub fn initial_spread(mut self, spread: Duration) -> Self {
        self.initial_spread = spread;
        self
    }

    /// Checks that run at once, at most; the others wait their turn. Endpoints whose latest check ran into its time limit take at most half of the places, or
    /// the only one, so that they do not delay the others. 1 to 65 536; default 64.
    pub fn max_concurrent(mut self, checks: usize) -> Self {
        self.max_concurrent = checks;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any field is out of its range; each such field is named.
    pub fn build(self) -> Result<HealthConfig, InvalidConfig> {
        let mut check = Mistakes::default();
        let mut duration = |field: &str, found: Option<Duration>, least: Duration| {
            if let Some(found) = found {
                let most = HealthConfig::MAX_DURATION;
                check.within(field, found, least..=most, &format!("{least:?} to {most:?}"));
            }
        };
        let millisecond = Duration::from_millis(1);
        duration("interval", Some(self.interval), millisecond);
        duration("unhealthy_interval", Some(self.unhealthy_interval), millisecond);
        duration("healthy_edge_interval", self.healthy_edge_interval, millisecond);
        duration("unhealthy_edge_interval", self.unhealthy_edge_interval, millisecond);
        duration("no_traffic_interval", self.no_traffic_interval, millisecond);
        duration("unknown_interval", Some(self.unknown_interval), millisecond);
        duration("timeout", Some(self.timeout), millisecond);
        duration("initial_spread", Some(self.initial_spread), Duration::ZERO);
        let mut count = |field: &str, found: u32| {
            NonZeroU32::new(found).unwrap_or_else(|| {
                check.unless(false, field, found, "at least 1");
                NonZeroU32::MIN
            })
        };
        let (rise, fall) = (count("rise", self.rise), count("fall", self.fall));
        let traffic_min_calls = count("traffic_min_calls", self.traffic_min_calls);
        let traffic_threshold = self.traffic_threshold.and_then(|share| match Ratio::new(share) {
            Ok(share) if share > Ratio::ZERO => Some(share),
            _ => {
                check.unless(false, "traffic_threshold", share, "over 0, up to 1");
                None
            }
        });
        let jitter = Ratio::new(self.jitter).unwrap_or_else(|_| {
            check.unless(false, "jitter", self.jitter, "0 to 1");
            Ratio::ZERO
        });
        let max_concurrent = match NonZeroUsize::new(self.max_concurrent) {
            Some(checks) if checks.get() <= HealthConfig::MAX_CONCURRENT => checks,
            _ => {
                let allowed = format!("1 to {}", HealthConfig::MAX_CONCURRENT);
                check.unless(false, "max_concurrent", self.max_concurrent, &allowed);
                NonZeroUsize::MIN
            }
        };
        check.finish(HealthConfig {
            interval: self.interval,
            unhealthy_interval: self.unhealthy_interval,
            healthy_edge_interval: self.healthy_edge_interval,
            unhealthy_edge_interval: self.unhealthy_edge_interval,
            no_traffic_interval: self.no_traffic_interval,
            unknown_interval: self.unknown_interval,
            initial: self.initial,
            traffic_threshold,
            traffic_min_calls,
            timeout: self.timeout,
            rise,
            fall,
            jitter,
            initial_spread: self.initial_spread,
            max_concurrent,
        })
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    #[test]
    fn every_mistake_is_named_with_its_field() {
        let error = HealthConfig::builder()
            .interval(Duration::ZERO)
            .unhealthy_interval(Duration::MAX)
            .healthy_edge_interval(Duration::ZERO)
            .unhealthy_edge_interval(Duration::from_nanos(1))
            .no_traffic_interval(Duration::ZERO)
            .unknown_interval(Duration::ZERO)
            .timeout(Duration::ZERO)
            .initial_spread(Duration::MAX)
            .rise(0)
            .fall(0)
            .traffic_threshold(0.0)
            .traffic_min_calls(0)
            .jitter(f64::NAN)
            .max_concurrent(0)
            .build()
            .unwrap_err();
        let fields: Vec<_> = error.mistakes().iter().map(Mistake::field).collect();
        assert_eq!(
            fields,
            [
                "interval",
                "unhealthy_interval",
                "healthy_edge_interval",
                "unhealthy_edge_interval",
                "no_traffic_interval",
                "unknown_interval",
                "timeout",
                "initial_spread",
                "rise",
                "fall",
                "traffic_min_calls",
                "traffic_threshold",
                "jitter",
                "max_concurrent",
            ]
        );
    }

    #[test]
    fn the_defaults_are_those_of_the_crate_page() {
        let config = HealthConfig::default();
        let rows = [
            ("interval", format!("{:?}", config.interval())),
            ("unhealthy_interval", format!("{:?}", config.unhealthy_interval())),
            ("healthy_edge_interval", format!("{:?}", config.healthy_edge_interval())),
            ("unhealthy_edge_interval", format!("{:?}", config.unhealthy_edge_interval())),
            ("no_traffic_interval", format!("{:?}", config.no_traffic_interval())),
            ("unknown_interval", format!("{:?}", config.unknown_interval())),
            (
                "traffic_threshold",
                config.traffic_threshold().map_or("none".to_owned(), |share| share.as_f64().to_string()),
            ),
            ("traffic_min_calls", config.traffic_min_calls().to_string()),
            ("initial", config.initial().state().to_string()),
            ("timeout", format!("{:?}", config.timeout())),
            ("rise", config.rise().to_string()),
            ("fall", config.fall().to_string()),
            ("jitter", config.jitter().as_f64().to_string()),
            ("initial_spread", format!("{:?}", config.initial_spread())),
            ("max_concurrent", config.max_concurrent().to_string()),
        ];
        let page = include_str!("../README.md");
        let table: Vec<_> = page
            .lines()
            .skip_while(|line| !line.starts_with("| knob "))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .collect();
        assert_eq!(table.len(), rows.len());
        for (line, (field, value)) in table.iter().zip(rows) {
            assert!(line.starts_with(&format!("| `{field}` | {value} |")), "{line}");
        }
    }
}
