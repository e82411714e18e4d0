//! The knobs of a budget.

use std::time::Duration;

use tower_mesh_core::error::{InvalidConfig, Mistakes};

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

    /// Whether a budget that goes by this can go on by `next`; see [`RetryBudget::reload`](crate::RetryBudget::reload).
    ///
    /// # Errors
    /// Every field that cannot change.
    pub fn check_change(&self, next: &Self) -> Result<(), InvalidConfig> {
        fn word(number: Option<impl std::fmt::Display>) -> String {
            number.map_or_else(|| "none".into(), |number| number.to_string())
        }
        let mut check = Mistakes::default();
        let same = |value: String| format!("{value}, as it was made with");
        check.unless(
            self.ttl == next.ttl,
            "ttl",
            format_args!("{:?}", next.ttl),
            &same(format!("{:?}", self.ttl)),
        );
        let (old, new) = (self.active_ratio, next.active_ratio);
        let allowed =
            if old.is_some() { "a ratio, as it was made with one" } else { "none, as it was made with" };
        check.unless(old.is_some() == new.is_some(), "active_ratio", word(new), allowed);
        let (old, new) = (self.max_tokens, next.max_tokens);
        check.unless(old == new, "max_tokens", word(new), &same(word(old)));
        let (old, new) = (self.token_ratio, next.token_ratio);
        check.unless(old == new, "token_ratio", new, &same(old.to_string()));
        check.finish(())
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
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(60));
        check.within("ttl", config.ttl, least..=most, "1s to 60s");
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
