//! When a circuit opens, and how it closes again.

use std::fmt;
use std::time::Duration;

use tower_mesh_core::Ratio;
use tower_mesh_core::backoff::{Backoff, Jitter};
use tower_mesh_core::classify::{AbandonedPolicy, Origin};
use tower_mesh_core::error::{InvalidConfig, Mistakes};

/// The knobs of a circuit. A value that exists is right.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_breaker::BreakerConfig;
/// let config = BreakerConfig::builder()
///     .failure_threshold(0.3)
///     .reset_timeout(Duration::from_secs(30))
///     .build()?;
/// assert_eq!(config.failure_threshold().as_f64(), 0.3);
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    failure_threshold: Ratio,
    min_calls: u32,
    window: WindowKind,
    failure_origins: Origins,
    consecutive_failures: u32,
    consecutive_origins: Origins,
    slow_call_duration: Option<Duration>,
    slow_call_threshold: Ratio,
    reset_timeout: Duration,
    max_reset_timeout: Duration,
    open_delay: OpenDelay,
    half_open_permits: u32,
    ramp: Duration,
    stalled_after: Duration,
}

/// Which failures a rule counts, by their origin.
///
/// ```
/// use tower_mesh_breaker::Origins;
/// use tower_mesh_core::classify::Origin;
/// let answers = Origins::of([Origin::Remote, Origin::Overload]);
/// assert!(answers.contains(Origin::Remote) && !answers.contains(Origin::Local));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origins(u8);

impl Origins {
    /// Whatever the origin.
    pub const ALL: Self = Self(0b111);
    /// All but overload answers.
    pub const BUT_OVERLOAD: Self = Self(0b011);

    /// These.
    pub fn of(origins: impl IntoIterator<Item = Origin>) -> Self {
        Self(origins.into_iter().fold(0, |bits, origin| bits | Self::bit(origin)))
    }

    /// Whether `origin` is among them.
    pub const fn contains(self, origin: Origin) -> bool {
        self.0 & Self::bit(origin) != 0
    }

    const fn bit(origin: Origin) -> u8 {
        match origin {
            Origin::Local => 1,
            Origin::Remote => 2,
            Origin::Overload => 4,
        }
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Origin::Local, "local"), (Origin::Remote, "remote"), (Origin::Overload, "overload")];
        let named = names.into_iter().filter(|(origin, _)| self.contains(*origin)).map(|(_, name)| name);
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origins({self})")
    }
}

/// How long a circuit stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OpenDelay {
    /// `reset_timeout` at first, then twice as long each time up to `max_reset_timeout`, with equal jitter from the second time on.
    #[default]
    Growing,
    /// `reset_timeout` each time.
    Fixed,
    /// As long as the server asked with the failure that opened it, from 1 ms to `max_reset_timeout`; where it asked for nothing, growing.
    AsAsked,
}

/// What the rates are counted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// The last so many calls.
    Calls(u32),
    /// The last so much time, in one-second buckets where that makes 10 to 60 of them, else in 10 or 60.
    Time(Duration),
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failure_threshold: Ratio::percent(50),
            min_calls: 10,
            window: WindowKind::Time(Duration::from_secs(10)),
            failure_origins: Origins::ALL,
            consecutive_failures: 5,
            consecutive_origins: Origins::BUT_OVERLOAD,
            slow_call_duration: None,
            slow_call_threshold: Ratio::ONE,
            reset_timeout: Duration::from_secs(5),
            max_reset_timeout: Duration::from_secs(300),
            open_delay: OpenDelay::Growing,
            half_open_permits: 3,
            ramp: Duration::ZERO,
            stalled_after: AbandonedPolicy::default().stalled_after(),
        }
    }
}

impl BreakerConfig {
    /// Starts from the defaults.
    pub fn builder() -> BreakerConfigBuilder {
        BreakerConfigBuilder { config: Self::default(), failure_threshold: 0.5, slow_call_threshold: 1.0 }
    }

    /// The share of failed calls at which it opens (`≥`). Default 0.5.
    pub fn failure_threshold(&self) -> Ratio {
        self.failure_threshold
    }

    /// How many calls the window must hold before a rate means anything. Default 10.
    pub fn min_calls(&self) -> u32 {
        self.min_calls
    }

    /// What the rates are counted over. Default 10 s.
    pub fn window(&self) -> WindowKind {
        self.window
    }

    /// Which failures the share of failed calls counts. Others say nothing to it, and give a trial call back. Default all (Linkerd).
    pub fn failure_origins(&self) -> Origins {
        self.failure_origins
    }

    /// Which failures count as some in a row. Others leave the row as it is. Default all but overload answers (Linkerd).
    pub fn consecutive_origins(&self) -> Origins {
        self.consecutive_origins
    }

    /// How many failures in a row open it, whatever the rate; 0 for never. Default 5 (Finagle).
    pub fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    /// A call that takes longer (`>`) is slow. Default none: no call is.
    pub fn slow_call_duration(&self) -> Option<Duration> {
        self.slow_call_duration
    }

    /// The share of slow calls at which it opens (`≥`). Default 1.
    pub fn slow_call_threshold(&self) -> Ratio {
        self.slow_call_threshold
    }

    /// How long it stays open at first; it doubles, with equal jitter, with each failed attempt to close, unless `open_delay` says otherwise. Default 5 s
    /// (Finagle).
    pub fn reset_timeout(&self) -> Duration {
        self.reset_timeout
    }

    /// The longest it stays open. Default 300 s.
    pub fn max_reset_timeout(&self) -> Duration {
        self.max_reset_timeout
    }

    /// How many calls the half-open circuit admits, and hears of, before it decides. Default 3.
    pub fn half_open_permits(&self) -> u32 {
        self.half_open_permits
    }

    /// How long it stays open: growing, fixed or as the server asked. Default growing.
    pub fn open_delay(&self) -> OpenDelay {
        self.open_delay
    }

    /// For how long, once the trial calls have come back and no rate is reached, the half-open circuit admits a share of the calls that grows from a tenth to all
    /// of them before it closes. A rate reached meanwhile, over at least `half_open_permits` calls, opens it again. Default 0: it closes at once.
    pub fn ramp(&self) -> Duration {
        self.ramp
    }

    /// How long nothing must have arrived for a caller's leaving to count as a failure. Default 500 ms.
    pub fn stalled_after(&self) -> Duration {
        self.stalled_after
    }

    pub(crate) fn abandoned(&self) -> AbandonedPolicy {
        AbandonedPolicy::new(self.stalled_after)
    }

    pub(crate) fn open_backoff(&self) -> Backoff {
        match self.open_delay {
            OpenDelay::Fixed => Backoff::new(self.reset_timeout, self.reset_timeout, Jitter::None),
            OpenDelay::Growing | OpenDelay::AsAsked => {
                Backoff::new(self.reset_timeout, self.max_reset_timeout, Jitter::Equal)
            }
        }
    }

    /// How long a closed circuit must last before the open time starts from its beginning again: one window.
    pub(crate) fn settled_after(&self) -> Duration {
        match self.window {
            WindowKind::Time(window) => window,
            WindowKind::Calls(_) => self.reset_timeout,
        }
    }
}

/// Collects the values of a [`BreakerConfig`]; see its getters for meaning and defaults.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct BreakerConfigBuilder {
    config: BreakerConfig,
    failure_threshold: f64,
    slow_call_threshold: f64,
}

impl BreakerConfigBuilder {
    /// See [`BreakerConfig::failure_threshold`]. Over 0, up to 1.
    pub fn failure_threshold(mut self, ratio: f64) -> Self {
        self.failure_threshold = ratio;
        self
    }

    /// See [`BreakerConfig::min_calls`]. 0 is as good as 1.
    pub fn min_calls(mut self, calls: u32) -> Self {
        self.config.min_calls = calls;
        self
    }

    /// See [`BreakerConfig::window`]. From 10 ms to 1 h, or from 1 to 1 000 000 calls.
    pub fn window(mut self, window: WindowKind) -> Self {
        self.config.window = window;
        self
    }

    /// See [`BreakerConfig::failure_origins`].
    pub fn failure_origins(mut self, origins: Origins) -> Self {
        self.config.failure_origins = origins;
        self
    }

    /// See [`BreakerConfig::consecutive_origins`].
    pub fn consecutive_origins(mut self, origins: Origins) -> Self {
        self.config.consecutive_origins = origins;
        self
    }

    /// See [`BreakerConfig::consecutive_failures`].
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.config.consecutive_failures = failures;
        self
    }

    /// See [`BreakerConfig::slow_call_duration`]. Over 0.
    pub fn slow_call_duration(mut self, duration: impl Into<Option<Duration>>) -> Self {
        self.config.slow_call_duration = duration.into();
        self
    }

    /// See [`BreakerConfig::slow_call_threshold`]. Over 0, up to 1.
    pub fn slow_call_threshold(mut self, ratio: f64) -> Self {
        self.slow_call_threshold = ratio;
        self
    }

    /// See [`BreakerConfig::reset_timeout`]. From 1 ms to 1 h.
    pub fn reset_timeout(mut self, duration: Duration) -> Self {
        self.config.reset_timeout = duration;
        self
    }

    /// See [`BreakerConfig::max_reset_timeout`]. From 1 ms to 24 h; a reset timeout above it is cut to it.
    pub fn max_reset_timeout(mut self, duration: Duration) -> Self {
        self.config.max_reset_timeout = duration;
        self
    }

    /// See [`BreakerConfig::half_open_permits`]. From 1 to 10 000.
    pub fn half_open_permits(mut self, permits: u32) -> Self {
        self.config.half_open_permits = permits;
        self
    }

    /// See [`BreakerConfig::open_delay`].
    pub fn open_delay(mut self, delay: OpenDelay) -> Self {
        self.config.open_delay = delay;
        self
    }

    /// See [`BreakerConfig::ramp`]. Up to 1 h.
    pub fn ramp(mut self, time: Duration) -> Self {
        self.config.ramp = time;
        self
    }

    /// See [`BreakerConfig::stalled_after`].
    pub fn stalled_after(mut self, quiet: Duration) -> Self {
        self.config.stalled_after = quiet;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<BreakerConfig, InvalidConfig> {
        let mut config = self.config;
        let mut check = Mistakes::default();
        let mut ratio = |field, value: f64| match Ratio::new(value) {
            Ok(ratio) if ratio > Ratio::ZERO => ratio,
            _ => {
                check.unless(false, field, value, "over 0, up to 1");
                Ratio::ONE
            }
        };
        config.failure_threshold = ratio("failure_threshold", self.failure_threshold);
        config.slow_call_threshold = ratio("slow_call_threshold", self.slow_call_threshold);
        let (ms, hour) = (Duration::from_millis(1), Duration::from_secs(3600));
        check.within("reset_timeout", config.reset_timeout, ms..=hour, "1ms to 1h");
        check.within("max_reset_timeout", config.max_reset_timeout, ms..=24 * hour, "1ms to 24h");
        check.within("ramp", config.ramp, Duration::ZERO..=hour, "up to 1h");
        if let WindowKind::Time(window) = config.window {
            check.within("window", window, 10 * ms..=hour, "10ms to 1h, or 1 to 1000000 calls");
        }
        check.unless(
            config.slow_call_duration != Some(Duration::ZERO),
            "slow_call_duration",
            "0s",
            "over 0s",
        );
        if let WindowKind::Calls(calls) = config.window {
            let right = (1..=1_000_000).contains(&calls);
            let what = "10ms to 1h, or 1 to 1000000 calls";
            check.unless(right, "window", format_args!("{:?}", config.window), what);
        }
        check.within("half_open_permits", config.half_open_permits, 1..=10_000, "1 to 10000");
        check.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = BreakerConfig::builder()
            .failure_threshold(f64::NAN)
            .half_open_permits(0)
            .window(WindowKind::Calls(0))
            .reset_timeout(Duration::ZERO)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        assert_eq!(fields, ["failure_threshold", "reset_timeout", "window", "half_open_permits"]);
    }

    #[test]
    fn the_crate_page_states_the_defaults() {
        let page = include_str!("../README.md");
        let config = BreakerConfig::default();
        let WindowKind::Time(window) = config.window() else { panic!("the default window is over time") };
        for (knob, value) in [
            ("failure_threshold", config.failure_threshold().as_f64().to_string()),
            ("min_calls", config.min_calls().to_string()),
            ("window", format!("{window:?}")),
            ("consecutive_failures", config.consecutive_failures().to_string()),
            ("failure_origins", config.failure_origins().to_string()),
            ("consecutive_origins", config.consecutive_origins().to_string()),
            ("slow_call_duration", config.slow_call_duration().map_or("none".into(), |d| format!("{d:?}"))),
            ("slow_call_threshold", config.slow_call_threshold().as_f64().to_string()),
            ("reset_timeout", format!("{:?}", config.reset_timeout())),
            ("max_reset_timeout", format!("{:?}", config.max_reset_timeout())),
            ("open_delay", format!("{:?}", config.open_delay()).to_lowercase()),
            ("ramp", format!("{:?}", config.ramp())),
            ("half_open_permits", config.half_open_permits().to_string()),
            ("stalled_after", format!("{:?}", config.stalled_after())),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
    }
}
