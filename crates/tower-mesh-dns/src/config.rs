//! Whom to ask, and how often.

use std::net::SocketAddr;
use std::time::Duration;

use tower_mesh_core::error::{InvalidConfig, Mistakes};

/// Which kinds of address are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Families {
    /// A and AAAA.
    #[default]
    Both,
    /// A only.
    V4,
    /// AAAA only.
    V6,
}

/// Whom to ask, and how often. A value that exists is right.
///
/// ```
/// use tower_mesh_dns::DnsConfig;
/// let config = DnsConfig::builder().servers(["127.0.0.1:5353".parse()?]).default_port(8080).build()?;
/// assert_eq!(config.default_port(), Some(8080));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DnsConfig {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    families: Families,
    default_port: Option<u16>,
    timeout: Duration,
    attempts: usize,
    min_interval: Duration,
    max_interval: Duration,
    max_negative_interval: Duration,
    jitter: f64,
    retry_delay: Duration,
    max_retry_delay: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: Vec::new(),
            families: Families::Both,
            default_port: None,
            timeout: Duration::from_secs(2),
            attempts: 2,
            min_interval: Duration::from_secs(5),
            max_interval: Duration::from_secs(300),
            max_negative_interval: Duration::from_secs(30),
            jitter: 0.1,
            retry_delay: Duration::from_secs(1),
            max_retry_delay: Duration::from_secs(30),
        }
    }
}

impl DnsConfig {
    /// Starts from the defaults.
    pub fn builder() -> DnsConfigBuilder {
        DnsConfigBuilder(Self::default())
    }

    /// Whether DNS can be asked for `name` with these knobs: see [`DnsResolver::asking`](crate::DnsResolver::asking).
    ///
    /// # Errors
    /// When it cannot.
    pub fn check_name(&self, name: &str) -> Result<(), crate::InvalidQuestion> {
        crate::question::Question::parse(name, self).map(drop)
    }

    /// Who is asked, over UDP and, where an answer is too long for that, TCP. Default: who `/etc/resolv.conf` (elsewhere: the system) names.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Domains under which a name without a final dot is looked for as well. Default: those of the system if it also names the servers, else none.
    pub fn search(&self) -> &[String] {
        &self.search
    }

    /// Which kinds of address are asked for. Default both.
    pub fn families(&self) -> Families {
        self.families
    }

    /// The port of a name that has none. Default none: such a name is an error.
    pub fn default_port(&self) -> Option<u16> {
        self.default_port
    }

    /// How long one server is given for one answer. Default 2 s.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How often each server is asked before that is a failure. Default 2.
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// The floor under a TTL: no question is asked more often. Default 5 s (as Kitex refreshes).
    pub fn min_interval(&self) -> Duration {
        self.min_interval
    }

    /// The ceiling over a TTL: endpoints that came are seen within it. Default 300 s.
    pub fn max_interval(&self) -> Duration {
        self.max_interval
    }

    /// The same for the answer that there is nothing, whose own TTL is the server's (RFC 2308). Default 30 s.
    pub fn max_negative_interval(&self) -> Duration {
        self.max_negative_interval
    }

    /// By which share at most a TTL is lengthened at random, so that many processes do not ask at once. Default 0.1.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }

    /// How long until a question that nobody answered is asked again; doubled with each failure, and between half of it and all of it. Default 1 s.
    pub fn retry_delay(&self) -> Duration {
        self.retry_delay
    }

    /// The ceiling over that. Default 30 s.
    pub fn max_retry_delay(&self) -> Duration {
        self.max_retry_delay
    }
}

/// Collects the values of a [`DnsConfig`]; see its getters for meaning and defaults.
#[derive(Debug, Clone)]
#[must_use]
pub struct DnsConfigBuilder(DnsConfig);

impl DnsConfigBuilder {
    /// See [`DnsConfig::servers`]. At most 16.
    pub fn servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.0.servers = servers.into_iter().collect();
        self
    }

    /// See [`DnsConfig::search`]. At most 16.
    pub fn search<S: Into<String>>(mut self, domains: impl IntoIterator<Item = S>) -> Self {
        self.0.search = domains.into_iter().map(Into::into).collect();
        self
    }

    /// See [`DnsConfig::families`].
    pub fn families(mut self, families: Families) -> Self {
        self.0.families = families;
        self
    }

    /// See [`DnsConfig::default_port`]. Not 0.
    pub fn default_port(mut self, port: u16) -> Self {
        self.0.default_port = Some(port);
        self
    }

    /// See [`DnsConfig::timeout`]. From 1 ms to 1 min.
    pub fn timeout(mut self, bound: Duration) -> Self {
        self.0.timeout = bound;
        self
    }

    /// See [`DnsConfig::attempts`]. From 1 to 10.
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// See [`DnsConfig::min_interval`]. From 100 ms to `max_interval`.
    pub fn min_interval(mut self, floor: Duration) -> Self {
        self.0.min_interval = floor;
        self
    }

    /// See [`DnsConfig::max_interval`]. Up to 1 day.
    pub fn max_interval(mut self, ceiling: Duration) -> Self {
        self.0.max_interval = ceiling;
        self
    }

    /// See [`DnsConfig::max_negative_interval`]. From 100 ms to 1 day.
    pub fn max_negative_interval(mut self, ceiling: Duration) -> Self {
        self.0.max_negative_interval = ceiling;
        self
    }

    /// See [`DnsConfig::jitter`]. From 0 to 1.
    pub fn jitter(mut self, share: f64) -> Self {
        self.0.jitter = share;
        self
    }

    /// See [`DnsConfig::retry_delay`]. From 100 ms to `max_retry_delay`.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.0.retry_delay = delay;
        self
    }

    /// See [`DnsConfig::max_retry_delay`]. Up to 1 h.
    pub fn max_retry_delay(mut self, delay: Duration) -> Self {
        self.0.max_retry_delay = delay;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<DnsConfig, InvalidConfig> {
        let config = self.0;
        let (ms, seconds) = (Duration::from_millis, Duration::from_secs);
        let mut check = Mistakes::default();
        let many = |n: usize| format!("{n} of them");
        check.unless(config.servers.len() <= 16, "servers", many(config.servers.len()), "at most 16");
        check.unless(config.search.len() <= 16, "search", many(config.search.len()), "at most 16");
        for domain in &config.search {
            let right = crate::question::name(domain).is_some();
            check.unless(right, "search", format_args!("{domain:?}"), "domains");
        }
        check.unless(config.default_port != Some(0), "default_port", 0, "1 to 65535");
        check.within("attempts", config.attempts, 1..=10, "1 to 10");
        check.within("jitter", config.jitter, 0.0..=1.0, "0 to 1");
        let (least, day) = (ms(100), seconds(86_400));
        check.within("timeout", config.timeout, ms(1)..=seconds(60), "1ms to 1m");
        check.within(
            "min_interval",
            config.min_interval,
            least..=config.max_interval,
            "100ms to max_interval",
        );
        check.within("max_interval", config.max_interval, least..=day, "100ms to 1day");
        check.within("max_negative_interval", config.max_negative_interval, least..=day, "100ms to 1day");
        let most = config.max_retry_delay;
        check.within("retry_delay", config.retry_delay, least..=most, "100ms to max_retry_delay");
        check.within("max_retry_delay", most, least..=seconds(3600), "100ms to 1h");
        check.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = DnsConfig::builder()
            .search(["two words"])
            .attempts(0)
            .jitter(f64::NAN)
            .timeout(Duration::ZERO)
            .min_interval(Duration::from_secs(600))
            .default_port(0)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        assert_eq!(fields, ["search", "default_port", "attempts", "jitter", "timeout", "min_interval"]);
    }

    #[test]
    fn the_crate_page_states_the_defaults() {
        let page = include_str!("../README.md");
        let config = DnsConfig::default();
        for (knob, value) in [
            ("servers", "those of the system".to_owned()),
            ("search", "those of the system".to_owned()),
            ("families", format!("{:?}", config.families()).to_lowercase()),
            ("default_port", "none".to_owned()),
            ("timeout", format!("{:?}", config.timeout())),
            ("attempts", config.attempts().to_string()),
            ("min_interval", format!("{:?}", config.min_interval())),
            ("max_interval", format!("{:?}", config.max_interval())),
            ("max_negative_interval", format!("{:?}", config.max_negative_interval())),
            ("jitter", config.jitter().to_string()),
            ("retry_delay", format!("{:?}", config.retry_delay())),
            ("max_retry_delay", format!("{:?}", config.max_retry_delay())),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
    }
}
