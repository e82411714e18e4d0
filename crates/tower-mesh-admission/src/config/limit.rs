//! The knobs of a limit on calls under way.

use std::time::Duration;

use tower_mesh_core::error::{InvalidConfig, Mistakes};
use tower_mesh_core::{Priority, Ratio};

/// How many calls may be under way at a time, and what becomes of one more.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_admission::{LimitAlgorithm, LimitConfig};
/// let config = LimitConfig::builder()
///     .algorithm(LimitAlgorithm::Aimd)
///     .max(500)
///     .max_waiting(20)
///     .build()?;
/// assert_eq!((config.initial(), config.max_wait()), (20, Duration::from_millis(100)));
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitConfig {
    algorithm: LimitAlgorithm,
    initial: u32,
    min: u32,
    max: u32,
    timeout: Duration,
    window: Duration,
    tolerance_percent: u32,
    max_waiting: u32,
    max_wait: Duration,
    normal_share: Ratio,
    sheddable_share: Ratio,
}

/// How the limit is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum LimitAlgorithm {
    /// It stays at `initial`.
    Fixed,
    /// One more with each call that ends well, a tenth less when one is dropped or takes longer than `timeout` (Netflix's `AIMDLimit`).
    Aimd,
    /// By how the latency of now compares with that of long (Netflix's `Gradient2Limit`).
    #[default]
    Gradient,
}

impl LimitAlgorithm {
    /// Each with its name in configurations.
    pub const ALL: [(&'static str, Self); 3] =
        [("fixed", Self::Fixed), ("aimd", Self::Aimd), ("gradient", Self::Gradient)];
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            algorithm: LimitAlgorithm::Gradient,
            initial: 20,
            min: 20,
            max: 200,
            timeout: Duration::from_secs(5),
            window: Duration::from_millis(100),
            tolerance_percent: 150,
            max_waiting: 0,
            max_wait: Duration::from_millis(100),
            normal_share: Ratio::ONE,
            sheddable_share: Ratio::percent(80),
        }
    }
}

impl LimitConfig {
    /// Starts from the defaults.
    pub fn builder() -> LimitConfigBuilder {
        LimitConfigBuilder {
            config: Self::default(),
            tolerance: 1.5,
            normal_share: 1.0,
            sheddable_share: 0.8,
        }
    }

    /// A limit that stays at `calls`, the rest by default.
    ///
    /// # Errors
    /// When it is not from 1 to 1 000 000.
    pub fn fixed(calls: u32) -> Result<Self, InvalidConfig> {
        Self::builder().algorithm(LimitAlgorithm::Fixed).initial(calls).build()
    }

    /// How the limit is found. Default [`LimitAlgorithm::Gradient`].
    pub fn algorithm(&self) -> LimitAlgorithm {
        self.algorithm
    }

    /// The limit at first, or for good. Default 20 (Netflix).
    pub fn initial(&self) -> u32 {
        self.initial
    }

    /// The least an adaptive limit becomes. Default 20 (Netflix).
    pub fn min(&self) -> u32 {
        self.min
    }

    /// The most an adaptive limit becomes. Default 200 (Netflix).
    pub fn max(&self) -> u32 {
        self.max
    }

    /// A call that takes longer (`>`) counts as dropped, for [`LimitAlgorithm::Aimd`]. Default 5 s (Netflix).
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Over how long at least, and ten calls at least, the latency of now is averaged, for [`LimitAlgorithm::Gradient`]. Default 100 ms.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How many times the latency of long the latency of now may be before the limit falls, for [`LimitAlgorithm::Gradient`]. Default 1.5 (Netflix).
    pub fn tolerance(&self) -> f64 {
        f64::from(self.tolerance_percent) / 100.0
    }

    /// How many calls may wait for one under way to end; 0 for none: what finds no room is refused at once. Default 0.
    pub fn max_waiting(&self) -> u32 {
        self.max_waiting
    }

    /// How long a call waits before it is refused. Default 100 ms.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// The share of the limit that calls of normal priority, with those below them, may take. The rest is kept for critical ones. Default 1.
    pub fn normal_share(&self) -> Ratio {
        self.normal_share
    }

    /// The share of the limit that may be taken when a sheddable call comes. Default 0.8.
    pub fn sheddable_share(&self) -> Ratio {
        self.sheddable_share
    }

    /// How many calls may be under way, at a limit of `limit`, for one of `priority` to be the last of them: at least one.
    pub fn places(&self, limit: u32, priority: Priority) -> u32 {
        let share = match priority {
            Priority::Critical => Ratio::ONE,
            Priority::Normal => self.normal_share,
            Priority::Sheddable => self.sheddable_share,
        };
        // The most that is no more than the share.
        ((f64::from(limit) * share.as_f64() + 1e-6).floor() as u32).max(1)
    }
}

/// Collects the values of a [`LimitConfig`]; see its getters for meaning and defaults.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct LimitConfigBuilder {
    config: LimitConfig,
    tolerance: f64,
    normal_share: f64,
    sheddable_share: f64,
}

impl LimitConfigBuilder {
    /// See [`LimitConfig::algorithm`].
    pub fn algorithm(mut self, algorithm: LimitAlgorithm) -> Self {
        self.config.algorithm = algorithm;
        self
    }

    /// See [`LimitConfig::initial`]. From 1 to 1 000 000; of an adaptive limit, what lies outside `min` and `max` is taken as the nearer of them.
    pub fn initial(mut self, calls: u32) -> Self {
        self.config.initial = calls;
        self
    }

    /// See [`LimitConfig::min`]. From 1 to `max`.
    pub fn min(mut self, calls: u32) -> Self {
        self.config.min = calls;
        self
    }

    /// See [`LimitConfig::max`]. Up to 1 000 000.
    pub fn max(mut self, calls: u32) -> Self {
        self.config.max = calls;
        self
    }

    /// See [`LimitConfig::timeout`]. From 1 ms to 1 h.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// See [`LimitConfig::window`]. Up to 1 min; 0 for every ten calls.
    pub fn window(mut self, window: Duration) -> Self {
        self.config.window = window;
        self
    }

    /// See [`LimitConfig::tolerance`]. From 1 to 100, in hundredths.
    pub fn tolerance(mut self, times: f64) -> Self {
        self.tolerance = times;
        self
    }

    /// See [`LimitConfig::max_waiting`]. Up to 100 000.
    pub fn max_waiting(mut self, calls: u32) -> Self {
        self.config.max_waiting = calls;
        self
    }

    /// See [`LimitConfig::max_wait`]. From 1 ms to 1 min.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.config.max_wait = wait;
        self
    }

    /// See [`LimitConfig::normal_share`]. Over 0, up to 1.
    pub fn normal_share(mut self, share: f64) -> Self {
        self.normal_share = share;
        self
    }

    /// See [`LimitConfig::sheddable_share`]. Over 0, up to 1; more than `normal_share` is taken as that.
    pub fn sheddable_share(mut self, share: f64) -> Self {
        self.sheddable_share = share;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<LimitConfig, InvalidConfig> {
        const MOST: u32 = 1_000_000;
        let mut config = self.config;
        let mut check = Mistakes::default();
        let (ms, second) = (Duration::from_millis(1), Duration::from_secs(1));
        check.within("initial", config.initial, 1..=MOST, "1 to 1000000");
        check.within("max", config.max, 1..=MOST, "1 to 1000000");
        check.within("min", config.min, 1..=config.max.max(1), "1 to max");
        check.within("timeout", config.timeout, ms..=3600 * second, "1ms to 1h");
        check.within("window", config.window, Duration::ZERO..=60 * second, "up to 1min");
        check.within("tolerance", self.tolerance, 1.0..=100.0, "1 to 100");
        check.within("max_waiting", config.max_waiting, 0..=100_000, "up to 100000");
        check.within("max_wait", config.max_wait, ms..=60 * second, "1ms to 1min");
        let mut share = |field, value: f64| match Ratio::new(value) {
            Ok(share) if share > Ratio::ZERO => share,
            _ => {
                check.unless(false, field, value, "over 0, up to 1");
                Ratio::ONE
            }
        };
        config.normal_share = share("normal_share", self.normal_share);
        config.sheddable_share = share("sheddable_share", self.sheddable_share).min(config.normal_share);
        config.tolerance_percent = (self.tolerance * 100.0).round() as u32;
        if config.algorithm != LimitAlgorithm::Fixed {
            config.initial = config.initial.max(config.min).min(config.max);
        }
        check.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = LimitConfig::builder()
            .initial(0)
            .min(11)
            .max(10)
            .tolerance(f64::NAN)
            .max_wait(Duration::ZERO)
            .normal_share(0.0)
            .sheddable_share(1.1)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        let expected = ["initial", "min", "tolerance", "max_wait", "normal_share", "sheddable_share"];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_lower_priority_never_has_more_places_and_always_one() {
        for (normal, sheddable) in [(1.0, 0.8), (0.5, 0.5), (0.3, 0.9), (0.001, 0.001)] {
            let config =
                LimitConfig::builder().normal_share(normal).sheddable_share(sheddable).build().unwrap();
            for limit in 1..300 {
                let places = Priority::ALL.map(|(_, priority)| config.places(limit, priority));
                assert!(places.is_sorted() && places[0] >= 1, "{limit}: {places:?}");
                assert_eq!(places[2], limit);
            }
        }
        let tenths = LimitConfig::builder().normal_share(0.9).build().unwrap();
        assert_eq!(tenths.places(10, Priority::Normal), 9, "a share that is whole is not rounded down");
    }

    #[test]
    fn the_crate_page_states_the_defaults() {
        let page = include_str!("../../README.md");
        let config = LimitConfig::default();
        assert_eq!(config, LimitConfig::builder().build().unwrap());
        for (knob, value) in [
            ("algorithm", format!("{:?}", config.algorithm()).to_lowercase()),
            ("initial", config.initial().to_string()),
            ("min", config.min().to_string()),
            ("max", config.max().to_string()),
            ("timeout", format!("{:?}", config.timeout())),
            ("window", format!("{:?}", config.window())),
            ("tolerance", config.tolerance().to_string()),
            ("max_waiting", config.max_waiting().to_string()),
            ("max_wait", format!("{:?}", config.max_wait())),
            ("normal_share", config.normal_share().as_f64().to_string()),
            ("sheddable_share", config.sheddable_share().as_f64().to_string()),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
    }
}
