//! Every knob, once.

use std::time::Duration;

use tower_mesh_core::backoff::{Backoff, Growth, Jitter};
use tower_mesh_core::error::{InvalidConfig, Mistakes};

use crate::policy::reason::FailureReason;

/// How [`RetryLayer`](crate::RetryLayer) tries again.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_retry::RetryConfig;
/// let config = RetryConfig::builder()
///     .max_attempts(4)
///     .base_delay(Duration::from_millis(50))
///     .attempt_timeout(Duration::from_secs(2))
///     .build()?;
/// assert_eq!(config.max_attempts(), 4);
///
/// let wrong = RetryConfig::builder().max_attempts(0).ready_timeout(Duration::ZERO).build().unwrap_err();
/// assert_eq!(wrong.mistakes().len(), 2, "every mistake is told");
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryConfig {
    max_attempts: u32,
    max_local_failures: Option<u32>,
    max_remote_failures: Option<u32>,
    max_overloads: Option<u32>,
    max_refusals: Option<u32>,
    base_delay: Duration,
    max_delay: Duration,
    growth: GrowthKind,
    multiplier: f64,
    jitter: Jitter,
    attempt_timeout: Option<Duration>,
    max_wait: Duration,
    ready_timeout: Duration,
}

impl RetryConfig {
    /// Starts from the defaults.
    pub fn builder() -> RetryConfigBuilder {
        RetryConfigBuilder(Self::default())
    }

    /// How often a request is sent at most, the first time included. 1 never tries again. Default 3, allowed 1 to 20.
    pub const fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// After how many failures of local origin (connect, reset, timeout) there is no other attempt, though others may be left. Default none, allowed 1 to 20.
    pub const fn max_local_failures(&self) -> Option<u32> {
        self.max_local_failures
    }

    /// The same for failures that an endpoint answered. Default none, allowed 1 to 20.
    pub const fn max_remote_failures(&self) -> Option<u32> {
        self.max_remote_failures
    }

    /// The same for answers by which an endpoint asks for less (HTTP 429, gRPC `RESOURCE_EXHAUSTED`). Default none, allowed 1 to 20.
    pub const fn max_overloads(&self) -> Option<u32> {
        self.max_overloads
    }

    /// The same for refusals of our own (circuit open, no endpoint). Default none, allowed 1 to 20.
    pub const fn max_refusals(&self) -> Option<u32> {
        self.max_refusals
    }

    /// After how many failures for `reason` there is no other attempt.
    pub const fn max_failures_for(&self, reason: FailureReason) -> Option<u32> {
        match reason {
            FailureReason::Local => self.max_local_failures,
            FailureReason::Remote => self.max_remote_failures,
            FailureReason::Overload => self.max_overloads,
            FailureReason::Refused => self.max_refusals,
            FailureReason::Ignored => None,
        }
    }

    /// The upper end of the first wait; it grows with every further one. Default 1 s, allowed up to `max_delay`.
    pub const fn base_delay(&self) -> Duration {
        self.base_delay
    }

    /// Where the growth ends. Default 15 s, allowed up to an hour.
    pub const fn max_delay(&self) -> Duration {
        self.max_delay
    }

    /// How waits grow. Default [`GrowthKind::Exponential`].
    pub const fn growth(&self) -> GrowthKind {
        self.growth
    }

    /// How many times as long as the one before a wait is, if waits grow exponentially. Default 2, allowed 1 to 10.
    pub const fn multiplier(&self) -> f64 {
        self.multiplier
    }

    /// How chance enters a wait. Default [`Jitter::Full`].
    pub const fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// How long one attempt may take, from its start to the head of its response. One that is not below the time left for the whole call has no effect.
    /// Default none, allowed is more than zero.
    pub const fn attempt_timeout(&self) -> Option<Duration> {
        self.attempt_timeout
    }

    /// The longest wait asked for by the server that is obeyed. If it asks for more the request is not sent again, since coming back earlier
    /// than asked is worse than not at all. Default 300 s, allowed up to 300 s.
    pub const fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// How long another attempt waits for the inner service to become ready, deadline or not. Default 3 s, allowed is more than zero, up to an hour.
    pub const fn ready_timeout(&self) -> Duration {
        self.ready_timeout
    }

    /// The waits, as a policy.
    pub const fn backoff(&self) -> Backoff {
        Backoff::new(self.base_delay, self.max_delay, self.jitter).growing(match self.growth {
            GrowthKind::Constant => Growth::Constant,
            GrowthKind::Linear => Growth::Linear(self.base_delay),
            GrowthKind::Exponential => Growth::Exponential(self.multiplier),
        })
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            max_local_failures: None,
            max_remote_failures: None,
            max_overloads: None,
            max_refusals: None,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(15),
            growth: GrowthKind::Exponential,
            multiplier: 2.0,
            jitter: Jitter::Full,
            attempt_timeout: None,
            max_wait: MAX_WAIT,
            ready_timeout: Duration::from_secs(3),
        }
    }
}

/// How the waits of a [`RetryConfig`] grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GrowthKind {
    /// Not at all.
    Constant,
    /// By the base delay each time.
    Linear,
    /// By [`RetryConfig::multiplier`] each time.
    #[default]
    Exponential,
}

const MAX_ATTEMPTS: u32 = 20;
const MAX_HEDGES: u32 = 4;
const MAX_WAIT: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// Makes a [`RetryConfig`]; each setter is documented at the getter of the same name.
#[derive(Debug, Clone, Copy)]
pub struct RetryConfigBuilder(RetryConfig);

impl RetryConfigBuilder {
    /// Sets [`RetryConfig::max_attempts`].
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.0.max_attempts = attempts;
        self
    }

    /// Sets [`RetryConfig::max_local_failures`].
    pub fn max_local_failures(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.0.max_local_failures = failures.into();
        self
    }

    /// Sets [`RetryConfig::max_remote_failures`].
    pub fn max_remote_failures(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.0.max_remote_failures = failures.into();
        self
    }

    /// Sets [`RetryConfig::max_overloads`].
    pub fn max_overloads(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.0.max_overloads = failures.into();
        self
    }

    /// Sets [`RetryConfig::max_refusals`].
    pub fn max_refusals(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.0.max_refusals = failures.into();
        self
    }

    /// Sets [`RetryConfig::base_delay`].
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.0.base_delay = delay;
        self
    }

    /// Sets [`RetryConfig::max_delay`].
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.0.max_delay = delay;
        self
    }

    /// Sets [`RetryConfig::growth`].
    pub fn growth(mut self, growth: GrowthKind) -> Self {
        self.0.growth = growth;
        self
    }

    /// Sets [`RetryConfig::multiplier`].
    pub fn multiplier(mut self, multiplier: f64) -> Self {
        self.0.multiplier = multiplier;
        self
    }

    /// Sets [`RetryConfig::jitter`].
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.0.jitter = jitter;
        self
    }

    /// Sets [`RetryConfig::attempt_timeout`].
    pub fn attempt_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.0.attempt_timeout = timeout.into();
        self
    }

    /// Sets [`RetryConfig::max_wait`].
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.0.max_wait = wait;
        self
    }

    /// Sets [`RetryConfig::ready_timeout`].
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.0.ready_timeout = timeout;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When a value is outside what its getter allows; all such values are named.
    pub fn build(self) -> Result<RetryConfig, InvalidConfig> {
        let config = self.0;
        let mut check = Mistakes::default();
        check.unless(
            (1..=MAX_ATTEMPTS).contains(&config.max_attempts),
            "max_attempts",
            config.max_attempts,
            "1 to 20",
        );
        for (field, limit) in [
            ("max_local_failures", config.max_local_failures),
            ("max_remote_failures", config.max_remote_failures),
            ("max_overloads", config.max_overloads),
            ("max_refusals", config.max_refusals),
        ] {
            let limit = limit.unwrap_or(1);
            check.unless((1..=MAX_ATTEMPTS).contains(&limit), field, limit, "1 to 20, or none");
        }
        check.unless(
            config.base_delay <= config.max_delay,
            "base_delay",
            format_args!("{:?}", config.base_delay),
            &format!("up to max_delay, which is {:?}", config.max_delay),
        );
        check.unless(
            config.max_delay <= HOUR,
            "max_delay",
            format_args!("{:?}", config.max_delay),
            "up to 1h",
        );
        let multiplier = config.multiplier;
        check.unless((1.0..=10.0).contains(&multiplier), "multiplier", multiplier, "1 to 10");
        check.unless(
            config.attempt_timeout != Some(Duration::ZERO),
            "attempt_timeout",
            "0s",
            "more than 0s, or none",
        );
        check.unless(
            config.max_wait <= MAX_WAIT,
            "max_wait",
            format_args!("{:?}", config.max_wait),
            "up to 300s",
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

/// How much of the traffic may be retries: see [`RetryBudget`](crate::RetryBudget).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetConfig {
    ratio: f64,
    min_per_second: u32,
    ttl: Duration,
    min_concurrency: u32,
    active_ratio: Option<f64>,
    max_tokens: Option<u32>,
    token_ratio: f64,
}

impl BudgetConfig {
    /// Starts from the defaults.
    pub fn builder() -> BudgetConfigBuilder {
        BudgetConfigBuilder(Self::default())
    }

    /// Retries per request. Default 0.2 (one for every five), allowed 0 to 1000.
    pub const fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Retries per second that are allowed whatever the traffic. They come as a reserve of `min_per_second · ttl` retries, and what
    /// is spent of it returns when it is `ttl` old: bursts, not a smooth rate. Default 10.
    pub const fn min_per_second(&self) -> u32 {
        self.min_per_second
    }

    /// How long a request counts in favour of retries, and a retry against them. Default 10 s, allowed 1 s to 60 s.
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// With fewer retries than this under way, another is allowed even if all else is spent. Default 3; 0 switches it off.
    pub const fn min_concurrency(&self) -> u32 {
        self.min_concurrency
    }

    /// Retries per call under way (Envoy's retry budget). If it is given, a retry is allowed while fewer are under way than this share of the calls that are,
    /// rounded down, or than [`min_concurrency`](Self::min_concurrency), and what passed earlier does not count: `ratio`, `min_per_second` and `ttl` are without
    /// effect. Default none, allowed 0 to 1.
    pub const fn active_ratio(&self) -> Option<f64> {
        self.active_ratio
    }

    /// The tokens of the failure throttle (gRFC A6): a failure that could be tried again takes one, and unless more than half are left nothing is sent again,
    /// whatever else the budget allows. Default none, which switches it off; allowed 1 to 1000.
    pub const fn max_tokens(&self) -> Option<u32> {
        self.max_tokens
    }

    /// How much of a token a success brings back, to three decimals; what is beyond is cut off. Default 0.1, allowed 0.001 to 1000.
    pub const fn token_ratio(&self) -> f64 {
        self.token_ratio
    }
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            ratio: 0.2,
            min_per_second: 10,
            ttl: Duration::from_secs(10),
            min_concurrency: 3,
            active_ratio: None,
            max_tokens: None,
            token_ratio: 0.1,
        }
    }
}

/// Makes a [`BudgetConfig`]; each setter is documented at the getter of the same name.
#[derive(Debug, Clone, Copy)]
pub struct BudgetConfigBuilder(BudgetConfig);

impl BudgetConfigBuilder {
    /// Sets [`BudgetConfig::ratio`].
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.0.ratio = ratio;
        self
    }

    /// Sets [`BudgetConfig::min_per_second`].
    pub fn min_per_second(mut self, retries: u32) -> Self {
        self.0.min_per_second = retries;
        self
    }

    /// Sets [`BudgetConfig::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = ttl;
        self
    }

    /// Sets [`BudgetConfig::min_concurrency`].
    pub fn min_concurrency(mut self, retries: u32) -> Self {
        self.0.min_concurrency = retries;
        self
    }

    /// Sets [`BudgetConfig::active_ratio`].
    pub fn active_ratio(mut self, ratio: impl Into<Option<f64>>) -> Self {
        self.0.active_ratio = ratio.into();
        self
    }

    /// Sets [`BudgetConfig::max_tokens`].
    pub fn max_tokens(mut self, tokens: impl Into<Option<u32>>) -> Self {
        self.0.max_tokens = tokens.into();
        self
    }

    /// Sets [`BudgetConfig::token_ratio`].
    pub fn token_ratio(mut self, ratio: f64) -> Self {
        self.0.token_ratio = ratio;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When a value is outside what its getter allows; all such values are named.
    pub fn build(self) -> Result<BudgetConfig, InvalidConfig> {
        let config = self.0;
        let mut check = Mistakes::default();
        check.unless((0.0..=1000.0).contains(&config.ratio), "ratio", config.ratio, "0 to 1000");
        check.unless(
            (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&config.ttl),
            "ttl",
            format_args!("{:?}", config.ttl),
            "1s to 60s",
        );
        let active = config.active_ratio.unwrap_or(0.0);
        check.unless((0.0..=1.0).contains(&active), "active_ratio", active, "0 to 1, or none");
        let tokens = config.max_tokens.unwrap_or(1);
        check.unless((1..=1000).contains(&tokens), "max_tokens", tokens, "1 to 1000, or none");
        check.unless(
            (0.001..=1000.0).contains(&config.token_ratio),
            "token_ratio",
            config.token_ratio,
            "0.001 to 1000",
        );
        check.finish(config)
    }
}

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

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    fn fields(error: &InvalidConfig) -> Vec<&str> {
        error.mistakes().iter().map(Mistake::field).collect()
    }

    #[test]
    fn every_mistake_is_told_and_the_edges_are_allowed() {
        let wrong = RetryConfig::builder()
            .max_attempts(21)
            .max_local_failures(0)
            .max_remote_failures(21)
            .max_overloads(0)
            .max_refusals(0)
            .base_delay(3 * HOUR)
            .max_delay(2 * HOUR)
            .multiplier(0.5)
            .attempt_timeout(Duration::ZERO)
            .max_wait(MAX_WAIT + Duration::from_nanos(1))
            .ready_timeout(Duration::ZERO)
            .build()
            .unwrap_err();
        let all = ["max_attempts", "base_delay", "max_delay", "multiplier", "attempt_timeout", "max_wait"];
        let limits = ["max_local_failures", "max_remote_failures", "max_overloads", "max_refusals"];
        assert_eq!(fields(&wrong), [&all[..1], &limits, &all[1..], &["ready_timeout"]].concat());
        let edge = RetryConfig::builder().max_attempts(1).base_delay(HOUR).max_delay(HOUR);
        assert!(edge.max_wait(Duration::ZERO).build().is_ok());

        let wrong = BudgetConfig::builder().ratio(f64::NAN).ttl(Duration::from_secs(61));
        let wrong = wrong.active_ratio(1.1).max_tokens(0).token_ratio(0.0).build();
        let all = ["ratio", "ttl", "active_ratio", "max_tokens", "token_ratio"];
        assert_eq!(fields(&wrong.unwrap_err()), all);
        assert!(BudgetConfig::builder().ratio(1000.0).min_per_second(0).build().is_ok());
        let wrong = DeadlineConfig::builder().timeout(Duration::ZERO).build();
        assert_eq!(fields(&wrong.unwrap_err()), ["timeout"]);
        let wrong = HedgeConfig::builder().max_hedges(5).delay(2 * HOUR).percentile(1.0);
        let wrong = wrong.ready_timeout(Duration::ZERO).build().unwrap_err();
        assert_eq!(fields(&wrong), ["max_hedges", "delay", "percentile", "ready_timeout"]);
        assert!(HedgeConfig::builder().percentile(f64::NAN).build().is_err());
    }

    #[test]
    fn the_readme_lists_the_defaults() {
        let (retry, budget, deadline) =
            (RetryConfig::default(), BudgetConfig::default(), DeadlineConfig::default());
        let hedge = HedgeConfig::default();
        let limit = |n: Option<u32>| n.map_or("none".to_owned(), |n| n.to_string());
        let optional = |d: Option<Duration>| d.map_or("none".to_owned(), |d| format!("{d:?}"));
        let rows = [
            ("max_attempts", retry.max_attempts().to_string()),
            ("max_local_failures", limit(retry.max_local_failures())),
            ("max_remote_failures", limit(retry.max_remote_failures())),
            ("max_overloads", limit(retry.max_overloads())),
            ("max_refusals", limit(retry.max_refusals())),
            ("base_delay", format!("{:?}", retry.base_delay())),
            ("max_delay", format!("{:?}", retry.max_delay())),
            ("growth", format!("{:?}", retry.growth()).to_lowercase()),
            ("multiplier", retry.multiplier().to_string()),
            ("jitter", format!("{:?}", retry.jitter()).to_lowercase()),
            ("attempt_timeout", optional(retry.attempt_timeout())),
            ("max_wait", format!("{:?}", retry.max_wait())),
            ("ready_timeout", format!("{:?}", retry.ready_timeout())),
            ("ratio", budget.ratio().to_string()),
            ("min_per_second", budget.min_per_second().to_string()),
            ("ttl", format!("{:?}", budget.ttl())),
            ("min_concurrency", budget.min_concurrency().to_string()),
            ("active_ratio", budget.active_ratio().map_or("none".to_owned(), |r| r.to_string())),
            ("max_tokens", limit(budget.max_tokens())),
            ("token_ratio", budget.token_ratio().to_string()),
            ("max_hedges", hedge.max_hedges().to_string()),
            ("delay", format!("{:?}", hedge.delay())),
            ("percentile", hedge.percentile().map_or("none".to_owned(), |p| p.to_string())),
            ("ready_timeout", format!("{:?}", hedge.ready_timeout())),
            ("timeout", optional(deadline.timeout())),
        ];
        let readme = include_str!("../README.md").split("# Examples").next().unwrap_or_default();
        for (field, default) in &rows {
            let row = format!("| `{field}` | {default} |");
            assert!(readme.contains(&row), "README lacks: {row}");
        }
        let listed =
            readme.lines().filter(|line| line.starts_with("| `") && !line.ends_with("default | |")).count();
        assert_eq!(listed, rows.len(), "README lists what does not exist");
    }
}
