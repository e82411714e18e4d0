//! The knobs of retries.

use std::time::Duration;

use tower_mesh_core::CallOptions;
use tower_mesh_core::backoff::{Backoff, Growth, Jitter};
use tower_mesh_core::error::{InvalidConfig, Mistakes};

use super::{HOUR, MAX_WAIT};
use crate::policy::reason::FailureReason;

const MAX_ATTEMPTS: u32 = 20;

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

    /// The same, but for what a call says otherwise.
    pub(crate) fn with_options(mut self, options: CallOptions) -> Self {
        if let Some(attempts) = options.get_max_attempts() {
            self.max_attempts = attempts;
        }
        self
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
        check.within("max_attempts", config.max_attempts, 1..=MAX_ATTEMPTS, "1 to 20");
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
        check.within("max_delay", config.max_delay, Duration::ZERO..=HOUR, "up to 1h");
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
