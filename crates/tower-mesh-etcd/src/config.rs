//! Whom to ask, as whom, and how patiently.

use std::fmt;
use std::time::Duration;

use tower_mesh_core::backoff::{Backoff, Jitter};
use tower_mesh_core::error::{InvalidConfig, Mistakes};

/// Whom to ask, as whom, and how patiently. A value that exists is right. Its `Debug` shows no password and no key.
///
/// ```
/// use tower_mesh_etcd::EtcdConfig;
/// let config = EtcdConfig::builder().servers(["http://10.0.0.1:2379", "http://10.0.0.2:2379"]).user("mesh", "secret").build()?;
/// assert_eq!(config.prefix(), "/services/");
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), tower_mesh_core::error::InvalidConfig>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct EtcdConfig {
    servers: Vec<String>,
    prefix: String,
    user: Option<(String, String)>,
    ca_certificate: Option<String>,
    client_certificate: Option<(String, String)>,
    domain: Option<String>,
    timeout: Duration,
    keep_alive: Duration,
    retry_delay: Duration,
    max_retry_delay: Duration,
    max_endpoints: usize,
    ttl: Duration,
}

impl EtcdConfig {
    /// Whether it differs from `other` in secrets alone: the password, certificates and keys, which are renewed while their places stay.
    pub fn is_same_but_for_secrets(&self, other: &Self) -> bool {
        let bare = |config: &Self| {
            let user = config.user.as_ref().map(|(name, _)| (name.clone(), String::new()));
            let has = |secret: bool| secret.then(String::new);
            Self {
                user,
                ca_certificate: has(config.ca_certificate.is_some()),
                client_certificate: has(config.client_certificate.is_some()).map(|none| (none.clone(), none)),
                ..config.clone()
            }
        };
        bare(self) == bare(other)
    }

    /// The most bytes of a value, and of a key: what is larger cannot be an endpoint.
    pub const MAX_VALUE: usize = 256 * 1024;

    /// Starts from the defaults; the servers have none.
    pub fn builder() -> EtcdConfigBuilder {
        EtcdConfigBuilder(Self {
            servers: Vec::new(),
            prefix: "/services/".to_owned(),
            user: None,
            ca_certificate: None,
            client_certificate: None,
            domain: None,
            timeout: Duration::from_secs(3),
            keep_alive: Duration::from_secs(10),
            retry_delay: Duration::from_millis(500),
            max_retry_delay: Duration::from_secs(30),
            max_endpoints: 10_000,
            ttl: Duration::from_secs(10),
        })
    }

    /// The servers of one etcd cluster, as URLs. No default: at least one must be said.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// What the keys of all services begin with: an endpoint stands at `prefix` + service + `/` + id. Default `/services/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of the user to authenticate as. Default none.
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|(name, _)| name.as_str())
    }

    /// How long a connection, a request, or a sign of life asked for is waited for. Default 3 s.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long nothing must have been heard for a sign of life to be asked for (an HTTP/2 ping). Default 10 s; etcd by itself refuses less than 5 s.
    pub fn keep_alive(&self) -> Duration {
        self.keep_alive
    }

    /// The longest wait after a failure before it is tried again: doubled with each that follows, and by chance any part of that, so that those who failed together do not
    /// come back together. A watch that ends and a registration that is lost are failures too; one that lasted as long as `max_retry_delay` makes it begin anew. Default 500 ms.
    pub fn retry_delay(&self) -> Duration {
        self.retry_delay
    }

    /// The ceiling over that. Default 30 s.
    pub fn max_retry_delay(&self) -> Duration {
        self.max_retry_delay
    }

    /// The most endpoints of one service; keys over it are left out and told. Default 10 000.
    pub fn max_endpoints(&self) -> usize {
        self.max_endpoints
    }

    /// How long a registered key outlives a process that says nothing any more. Default 10 s; kept alive every third of it.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.retry_delay, self.max_retry_delay, Jitter::Full)
    }

    pub(crate) fn options(&self) -> etcd_client::ConnectOptions {
        let mut options = etcd_client::ConnectOptions::new()
            .with_connect_timeout(self.timeout)
            .with_keep_alive(self.keep_alive, self.timeout)
            .with_keep_alive_while_idle(true)
            // A member that lost its cluster ends the watch, in place of knowing nothing new for ever.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        #[cfg(feature = "tls")]
        if self.is_encrypted() {
            options = options.with_tls(self.tls());
        }
        options
    }

    fn is_encrypted(&self) -> bool {
        self.servers.iter().any(|server| server.starts_with("https://"))
    }

    #[cfg(feature = "tls")]
    fn tls(&self) -> etcd_client::TlsOptions {
        use etcd_client::{Certificate, Identity, TlsOptions};
        let mut tls = TlsOptions::new();
        tls = match &self.ca_certificate {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.client_certificate {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        if let Some(domain) = &self.domain {
            tls = tls.domain_name(domain);
        }
        tls
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("servers", &self.servers)
            .field("prefix", &self.prefix)
            .field("user", &self.user())
            .field("ca_certificate", &self.ca_certificate.is_some())
            .field("client_certificate", &self.client_certificate.is_some())
            .field("domain", &self.domain)
            .field("timeout", &self.timeout)
            .field("keep_alive", &self.keep_alive)
            .field("retry_delay", &self.retry_delay)
            .field("max_retry_delay", &self.max_retry_delay)
            .field("max_endpoints", &self.max_endpoints)
            .field("ttl", &self.ttl)
            .finish()
    }
}

/// Collects the values of an [`EtcdConfig`]; see its getters for meaning and defaults.
#[derive(Debug, Clone)]
#[must_use]
pub struct EtcdConfigBuilder(EtcdConfig);

impl EtcdConfigBuilder {
    /// See [`EtcdConfig::servers`]. From 1 to 16, all `http://` or all `https://` (feature `tls`).
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.0.servers = servers.into_iter().map(Into::into).collect();
        self
    }

    /// See [`EtcdConfig::prefix`]. Up to 1024 bytes, ending with `/`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.0.prefix = prefix.into();
        self
    }

    /// Authenticates by name and password. The password is not shown anywhere.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.0.user = Some((name.into(), password.into()));
        self
    }

    /// For `https://`: the authority that the servers' certificates are from, in PEM. Default: those that the system trusts.
    pub fn ca_certificate(mut self, pem: impl Into<String>) -> Self {
        self.0.ca_certificate = Some(pem.into());
        self
    }

    /// For `https://`: the certificate and the key, both in PEM, by which this program shows who it is. The key is not shown anywhere. Default none.
    pub fn client_certificate(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.0.client_certificate = Some((certificate.into(), key.into()));
        self
    }

    /// For `https://`: the name that the servers' certificates are for. Default: the host of each URL.
    pub fn domain(mut self, name: impl Into<String>) -> Self {
        self.0.domain = Some(name.into());
        self
    }

    /// See [`EtcdConfig::timeout`]. From 10 ms to 1 min.
    pub fn timeout(mut self, bound: Duration) -> Self {
        self.0.timeout = bound;
        self
    }

    /// See [`EtcdConfig::keep_alive`]. From 5 s to 1 h.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.0.keep_alive = interval;
        self
    }

    /// See [`EtcdConfig::retry_delay`]. From 10 ms to `max_retry_delay`.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.0.retry_delay = delay;
        self
    }

    /// See [`EtcdConfig::max_retry_delay`]. Up to 1 h.
    pub fn max_retry_delay(mut self, delay: Duration) -> Self {
        self.0.max_retry_delay = delay;
        self
    }

    /// See [`EtcdConfig::max_endpoints`]. From 1 to 1 000 000.
    pub fn max_endpoints(mut self, max: usize) -> Self {
        self.0.max_endpoints = max;
        self
    }

    /// See [`EtcdConfig::ttl`]. From 2 s to 1 h; fractions of a second are rounded up.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl = ttl;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When any value is out of range; all that are, in one answer.
    pub fn build(self) -> Result<EtcdConfig, InvalidConfig> {
        let config = self.0;
        let (ms, seconds) = (Duration::from_millis, Duration::from_secs);
        let mut check = Mistakes::default();
        let count = config.servers.len();
        check.unless((1..=16).contains(&count), "servers", format_args!("{count} of them"), "1 to 16");
        let encrypted = config.is_encrypted();
        for server in &config.servers {
            let rest =
                if encrypted { server.strip_prefix("https://") } else { server.strip_prefix("http://") };
            let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '@');
            let right = rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain));
            // What might hold a password is not shown.
            let shown = if server.contains('@') { "a URL with a user" } else { server };
            let allowed = "http://host:port, or https://host:port for all";
            check.unless(right, "servers", format_args!("{shown:?}"), allowed);
        }
        let tls = cfg!(feature = "tls");
        check.unless(
            !encrypted || tls,
            "servers",
            "https://",
            "http:// alone: this build has no TLS (feature tls)",
        );
        for (field, given) in [
            ("ca_certificate", config.ca_certificate.is_some()),
            ("client_certificate", config.client_certificate.is_some()),
            ("domain", config.domain.is_some()),
        ] {
            check.unless(!given || encrypted, field, "one", "none, where the servers are http://");
        }
        let prefix = &config.prefix;
        let right = prefix.ends_with('/') && prefix.len() <= 1024;
        check.unless(right, "prefix", format_args!("{prefix:?}"), "up to 1024 bytes, ending with /");
        if let Some((name, _)) = &config.user {
            check.unless(!name.is_empty(), "user", "an empty name", "a name");
        }
        check.within("timeout", config.timeout, ms(10)..=seconds(60), "10ms to 1m");
        check.within("keep_alive", config.keep_alive, seconds(5)..=seconds(3600), "5s to 1h");
        let most = config.max_retry_delay;
        check.within("retry_delay", config.retry_delay, ms(10)..=most, "10ms to max_retry_delay");
        check.within("max_retry_delay", most, ms(10)..=seconds(3600), "10ms to 1h");
        check.within("max_endpoints", config.max_endpoints, 1..=1_000_000, "1 to 1000000");
        check.within("ttl", config.ttl, seconds(2)..=seconds(3600), "2s to 1h");
        check.finish(config)
    }
}

#[cfg(test)]
mod tests {
    use tower_mesh_core::error::Mistake;

    use super::*;

    fn right() -> EtcdConfigBuilder {
        EtcdConfig::builder().servers(["http://127.0.0.1:2379"])
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = EtcdConfig::builder()
            .servers(["127.0.0.1:2379", "http://u:secret@h:1"])
            .prefix("services")
            .domain("etcd")
            .user("", "")
            .timeout(Duration::ZERO)
            .keep_alive(Duration::from_secs(1))
            .retry_delay(Duration::from_secs(60))
            .max_endpoints(0)
            .ttl(Duration::ZERO)
            .build()
            .unwrap_err();
        let fields: Vec<_> = wrong.mistakes().iter().map(Mistake::field).collect();
        assert_eq!(
            fields,
            [
                "servers",
                "servers",
                "domain",
                "prefix",
                "user",
                "timeout",
                "keep_alive",
                "retry_delay",
                "max_endpoints",
                "ttl"
            ]
        );
        assert!(!wrong.to_string().contains("secret"));
        assert_eq!(EtcdConfig::builder().build().unwrap_err().mistakes()[0].field(), "servers");
    }

    #[test]
    fn encryption_is_for_all_servers_and_needs_the_feature() {
        let https = EtcdConfig::builder().servers(["https://h:2379"]).domain("etcd").build();
        assert_eq!(https.is_ok(), cfg!(feature = "tls"));
        let mixed = EtcdConfig::builder().servers(["https://h:2379", "http://i:2379"]).build();
        assert!(mixed.is_err());
    }

    #[test]
    fn passwords_and_keys_are_shown_nowhere() {
        let builder = right().user("mesh", "s3cret").client_certificate("cert", "k3y");
        for shown in
            [format!("{builder:?}"), format!("{:?}", right().user("mesh", "s3cret").build().unwrap())]
        {
            assert!(shown.contains("mesh") && !shown.contains("s3cret") && !shown.contains("k3y"), "{shown}");
        }
    }

    #[test]
    fn the_crate_page_states_the_defaults() {
        let page = include_str!("../README.md");
        let config = right().build().unwrap();
        for (knob, value) in [
            ("servers", "must be said".to_owned()),
            ("prefix", config.prefix().to_owned()),
            ("user", config.user().unwrap_or("none").to_owned()),
            ("timeout", format!("{:?}", config.timeout())),
            ("keep_alive", format!("{:?}", config.keep_alive())),
            ("retry_delay", format!("{:?}", config.retry_delay())),
            ("max_retry_delay", format!("{:?}", config.max_retry_delay())),
            ("max_endpoints", config.max_endpoints().to_string()),
            ("ttl", format!("{:?}", config.ttl())),
        ] {
            assert!(page.contains(&format!("| `{knob}` | {value} |")), "{knob} {value}");
        }
    }
}
