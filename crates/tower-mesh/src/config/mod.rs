//! The configuration of a mesh: one typed tree, from TOML, JSON, YAML (feature `yaml`) or code.
//!
//! Strict: an unknown field, a wrong type, a duration without a unit or a value out of range is a mistake, and all mistakes of a file
//! come in one answer, each with its path, what was found and what is allowed. [`MeshBuilder::config_path`](crate::MeshBuilder::config_path) adds
//! to that answer what is wrong between the file and the program, such as a resolver that does not exist.
//!
//! ```toml
//! identity = "gateway"             # who this program is, to the tables `allow` of services
//! start_timeout = "10s"            # how long `Mesh::start` waits for the required services
//!
//! [defaults.retry]                 # any table of a service may stand under `defaults`, for all services
//! max_delay = "5s"
//!
//! [services.users]
//! endpoints = ["10.0.0.1:8080", "10.0.0.2:8080"]   # or: resolver = "name of one given to the builder"
//!                                                  # or: file = "users.toml", watched (feature `file`)
//!                                                  # or: dns = "users.internal:8080", or "_web._tcp.internal" (feature `dns`)
//!                                                  # or: etcd = {}, the keys under the service's name (feature `etcd`)
//! required = true                  # false: `Mesh::start` does not wait for the service, and `Mesh::readiness` does not go by it
//! ready_when = "resolved"          # what readiness wants of it; "available": that a call could go to an endpoint now
//!
//! [services.users.allow.gateway]   # present: only these callers may call, and only these operations
//! operations = ["get", "list-*"]
//! [services.users.allow."*"]
//! operations = ["health"]
//! [services.users.operations.report]   # what is otherwise for calls of this operation
//! timeout = "60s"                  # of the whole call
//! max_attempts = 1
//! priority = "sheddable"           # how much it matters where there is a limit: sheddable, normal, critical
//! idempotent = true                # whether doing it twice does no harm, whatever the request looks like
//! [services.users.deadline]        # the whole call
//! timeout = "15s"
//! [services.users.retry]
//! max_attempts = 3
//! base_delay = "1s"
//! max_delay = "15s"
//! attempt_timeout = "2s"
//! [services.users.budget]
//! ratio = 0.2
//! [services.users.breaker]
//! failure_threshold = 0.5
//! reset_timeout = "30s"
//! [services.users.limit]           # present: so many calls are under way at a time, and no more; how many, it finds out
//! max_waiting = 50
//! [services.users.admission]       # present: calls are refused by chance while too few succeed
//! [services.users.outlier]         # present: outliers among the endpoints are ejected
//! max_ejection_percent = 30
//! [services.users.health]          # present: endpoints are probed
//! path = "/healthz"                # by GET; or one of the tables http, tcp and grpc; or a probe given to the builder
//! [services.users.credentials]     # present: requests carry `authorization: Bearer …` (feature `credentials`)
//! bearer_file = "/run/secrets/users"   # or: bearer_env = "USERS_TOKEN"
//! reload = "30s"                   # how often the file is read again; this is the default
//! [services.users.discovery]
//! ready_timeout = "3s"
//! algorithm = "p2c_ewma"           # p2c_least_request, round_robin, random, ring_hash, maglev
//! locality = "zone-a"              # where this program stands
//! rest_after = "10m"               # without calls for so long, the source is not listened to until the next one
//! ```
//!
//! With `dns` as a table, `name` is that name, and the other fields are those of [`DnsConfig`](https://docs.rs/tower-mesh-dns), as under `defaults.dns`. The table `etcd` has the
//! fields of [`EtcdConfig`](https://docs.rs/tower-mesh-etcd) but `ttl`; the password of its `user` is never in it but in `password_file`, or in the environment as `password_env`, and certificates
//! are in `ca_file`, `certificate_file` and `key_file`:
//!
//! ```toml
//! [defaults.etcd]
//! servers = ["https://10.0.0.5:2379"]
//! user = "mesh"
//! password_env = "ETCD_PASSWORD"
//! [services.users]
//! etcd = {}
//! [services.orders.dns]
//! name = "orders.internal:8080"
//! servers = ["10.0.0.53:53"]
//! families = "v4"                  # both, v4, v6
//! ```
//!
//! The token of a table `credentials` goes with the requests that `http`, `reqwest` and `grpc` send to the service's endpoints, unless they have that header already; not with probes,
//! and not through `bind` and `connect`. It is read when the mesh is built, and stands in no log, status or error. A file that cannot be used any more leaves the old token
//! in use, which is told to `tracing`. Whoever reads the connection reads the token: send it over TLS.
//!
//! A probe that is more than a GET has a table of its own:
//!
//! ```toml
//! [services.users.health.http]
//! path = "/healthz"                # default "/"
//! method = "GET"                   # HEAD, OPTIONS, POST
//! expected = [200, "300-399"]      # statuses that mean well; default "200-299"
//! headers = { host = "users.internal" }
//! body_contains = "ready"          # default: the body is not looked at
//! max_body = 65536                 # how many bytes of it, at most
//! http2 = false                    # feature `http2`
//! port = 9000                      # this and host: default the endpoint's own
//! host = "10.0.0.1"
//! [services.orders.health.tcp]     # whether a connection is accepted
//! port = 5432                      # and host
//! [services.billing.health.grpc]   # gRPC's health protocol (feature `http2`)
//! service = "billing.v1.Billing"   # default "": the server as a whole
//! watch = false                    # true: a stream stays open, and the server tells every change
//! port = 9000                      # and host
//! ```
//!
//! In JSON and YAML the tables and fields are the same. Of YAML nothing is taken that a reader could miss: one document, names that are texts, no field twice, no tags, no
//! merged keys (`<<`), and a table without anything in it is `{}`, since what stands there empty is `null` and refused:
//!
//! ```yaml
//! services:
//!   users:
//!     endpoints: [10.0.0.1:8080, 10.0.0.2:8080]
//!     retry: { max_attempts: 3, base_delay: 1s }
//!     limit: {}
//!     allow:
//!       "*": { operations: [health] }
//! ```
//!
//! The fields of the other tables are those of the layers' configurations:
//! [`DeadlineConfig`], [`RetryConfig`], [`BudgetConfig`], [`BreakerConfig`], [`OutlierConfig`], [`HealthConfig`], [`DiscoveryConfig`]. Where the mesh's
//! default differs from the layer's it is told at [`ServiceConfig`].

mod credentials;
mod overrides;
mod policies;
mod probe;
mod read;
mod shape;
mod source;
mod strict;
mod tree;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tower_mesh_admission::{AdmissionConfig, LimitConfig, SuccessRateConfig};
use tower_mesh_breaker::BreakerConfig;
use tower_mesh_breaker::outlier::OutlierConfig;
use tower_mesh_core::error::{InvalidConfig, Mistake};
use tower_mesh_core::{BoxError, CallOptions, Caller, Endpoint, Operation, ServiceName};
use tower_mesh_discovery::DiscoveryConfig;
use tower_mesh_health::HealthConfig;
use tower_mesh_retry::{BudgetConfig, DeadlineConfig, HedgeConfig, HedgeConfigBuilder, RetryConfig};

pub(crate) use self::credentials::CredentialsConfig;
#[cfg(feature = "credentials")]
pub(crate) use self::credentials::TokenSource;
pub use self::overrides::Overrides;
pub(crate) use self::probe::ProbeSettings;
#[cfg(feature = "http")]
pub(crate) use self::probe::{HttpSettings, ProbeKind};
pub(crate) use self::source::SourceConfig;
use self::strict::Tree;
use crate::authorize::AllowList;

/// The configuration of a mesh. See the [module](self) for its form as a file.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) start_timeout: Duration,
    pub(crate) identity: Option<Caller>,
    pub(crate) services: BTreeMap<ServiceName, ServiceConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self { start_timeout: Self::START_TIMEOUT, identity: None, services: BTreeMap::new() }
    }
}

impl Config {
    /// How long [`Mesh::start`](crate::Mesh::start) waits for the required services, unless the configuration says otherwise: 10 s.
    pub const START_TIMEOUT: Duration = Duration::from_secs(10);

    /// A configuration without services, to be filled in code.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a file; `.json` is JSON, `.yaml` and `.yml` are YAML (feature `yaml`), everything else is TOML.
    ///
    /// What only the rest of the program knows, such as which resolvers there are, is not looked at:
    /// [`MeshBuilder::config_path`](crate::MeshBuilder::config_path) tells the mistakes of both in one answer.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, and when anything in it is wrong.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_path_with(path, &Overrides::new())
    }

    /// As [`from_path`](Self::from_path), with fields that stand above those of the file.
    ///
    /// # Errors
    /// The same.
    pub fn from_path_with(path: impl AsRef<Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        Draft::of_path(path.as_ref(), overrides)?.finish()
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// When it cannot be parsed, and when anything in it is wrong.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Draft::of_toml(text, &Overrides::new())?.finish()
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// When it cannot be parsed, and when anything in it is wrong.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        Draft::of_json(text, &Overrides::new())?.finish()
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// When it cannot be parsed, and when anything in it is wrong.
    #[cfg(feature = "yaml")]
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        Draft::of_yaml(text, &Overrides::new())?.finish()
    }

    /// Who this program is, to whoever decides who may call: calls that say nothing else are made by it. Default none.
    pub fn identity(mut self, identity: Caller) -> Self {
        self.identity = Some(identity);
        self
    }

    /// A JSON Schema of what a file may hold, as far as this build knows it: fields and their types. Ranges, and what fields say of each other, are checked
    /// when a file is read.
    pub fn json_schema() -> serde_json::Value {
        let mut schema = tree::shape().schema();
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
            fields.insert("title".into(), "Configuration of a tower-mesh".into());
        }
        schema
    }

    /// The same as a page in Markdown.
    pub fn reference() -> String {
        let mut page = String::from(
            "# Fields of a configuration\n\nWritten by `Config::reference`. `*` is a name of your own. Defaults and ranges: see the tables of the crates.\n\n| field | |\n|---|---|\n",
        );
        tree::shape().rows("", &mut page);
        page
    }

    /// Adds a service, or replaces the one of its name.
    pub fn service(mut self, name: ServiceName, service: ServiceConfig) -> Self {
        self.services.insert(name, service);
        self
    }

    /// Sets how long [`Mesh::start`](crate::Mesh::start) waits for the required services. From 1 ms to 1 h, checked when the mesh is built.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    fn start_timeout_mistake(timeout: Duration) -> Option<Mistake> {
        let allowed = Duration::from_millis(1)..=Duration::from_secs(3600);
        let right = allowed.contains(&timeout);
        (!right).then(|| Mistake::new("start_timeout", format_args!("{timeout:?}"), "1ms to 1h"))
    }
}

/// What was read, and all that is wrong with it. Where something is wrong a stand-in is in its place, so that everything else can still be checked.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) config: Config,
    pub(crate) mistakes: Vec<Mistake>,
}

impl Draft {
    pub(crate) fn of_path(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let name = || path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: name(), error })?;
        let draft = match path.extension().and_then(OsStr::to_str) {
            Some("json") => Self::of_json(&text, overrides),
            Some("yaml" | "yml") => Self::of_yaml(&text, overrides),
            _ => Self::of_toml(&text, overrides),
        };
        draft.map_err(|error| match error {
            ConfigError::Malformed { error, .. } => ConfigError::Malformed { path: Some(name()), error },
            other => other,
        })
    }

    pub(crate) fn of_toml(text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::of_tree(toml::from_str(text).map_err(Into::into), overrides)
    }

    pub(crate) fn of_json(text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::of_tree(serde_json::from_str(text).map_err(Into::into), overrides)
    }

    pub(crate) fn of_yaml(text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        #[cfg(feature = "yaml")]
        let tree = yaml_serde::from_str(text).map_err(Into::into);
        #[cfg(not(feature = "yaml"))]
        let tree = {
            let _ = text;
            Err("this build reads no YAML (feature yaml)".into())
        };
        Self::of_tree(tree, overrides)
    }

    fn of_tree(tree: Result<Tree, BoxError>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let Tree(mut tree) = tree.map_err(|error| ConfigError::Malformed { path: None, error })?;
        let in_the_way = overrides.apply(&mut tree);
        let mut draft = tree::read(&tree);
        draft.mistakes = draft.mistakes.into_iter().map(|mistake| overrides.hide(mistake, &tree)).collect();
        draft.mistakes.extend(in_the_way);
        Ok(draft)
    }

    pub(crate) fn of_code(config: Config) -> Self {
        let mut mistakes = Vec::from_iter(Config::start_timeout_mistake(config.start_timeout));
        for (name, service) in &config.services {
            let path = path_of("services", name.as_str());
            mistakes.extend(service.mistakes().into_iter().map(|mistake| mistake.under(&path)));
        }
        Self { config, mistakes }
    }

    fn finish(self) -> Result<Config, ConfigError> {
        InvalidConfig::check(self.mistakes)?;
        Ok(self.config)
    }
}

/// The path to what is called `key` under `parent`, as TOML would have it.
pub(crate) fn path_of(parent: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let quoted = key.is_empty() || !key.chars().all(bare);
    match (parent.is_empty(), quoted) {
        (true, false) => key.to_owned(),
        (true, true) => format!("{key:?}"),
        (false, false) => format!("{parent}.{key}"),
        (false, true) => format!("{parent}.{key:?}"),
    }
}

/// One service.
///
/// | table | default in a mesh |
/// |---|---|
/// | `deadline` | 15 s for the whole call |
/// | `retry` | 3 attempts, 1 s base delay, 15 s largest delay, full jitter |
/// | `budget` | 20 % of the traffic, at least 10 retries a second and 3 at a time |
/// | `hedge` | none: nothing is hedged; with such a table, one hedge unless it says otherwise |
/// | `breaker` | opens at a failure rate of 0.5, `reset_timeout` 30 s (the layer's own is 5 s) |
/// | `limit` | none: as many calls are under way as come; with such a table, a limit that finds itself |
/// | `admission` | none: no call is refused for want of success |
/// | `outlier` | none: no endpoint is ejected for being worse than its peers |
/// | `health` | none: endpoints are not probed |
/// | `discovery` | as the layer's |
/// | `credentials` | none: requests are authorized by what they bring along |
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    pub(crate) source: SourceConfig,
    pub(crate) required: bool,
    pub(crate) allow: Option<AllowList>,
    pub(crate) operations: BTreeMap<Operation, CallOptions>,
    pub(crate) ready_when: ReadyWhen,
    pub(crate) discovery: DiscoveryConfig,
    pub(crate) locality: Option<Arc<str>>,
    pub(crate) rest_after: Option<Duration>,
    pub(crate) deadline: DeadlineConfig,
    pub(crate) retry: RetryConfig,
    pub(crate) budget: BudgetConfig,
    pub(crate) hedge: HedgeConfig,
    pub(crate) breaker: BreakerConfig,
    pub(crate) limit: Option<LimitConfig>,
    pub(crate) admission: Option<SuccessRateConfig>,
    pub(crate) outlier: Option<OutlierConfig>,
    pub(crate) health: Option<HealthSettings>,
    pub(crate) credentials: Option<CredentialsConfig>,
}

/// What a program's own readiness wants of a required service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ReadyWhen {
    /// Its endpoints are known. If all of them are down the program is degraded, and stays in rotation: taking every caller of a service out because the
    /// service is down makes a larger failure of it.
    #[default]
    Resolved,
    /// A call could go to one of them now. For a service without which no request can be answered.
    Available,
}

impl ReadyWhen {
    /// Each with its name in configurations.
    pub const ALL: [(&'static str, Self); 2] = [("resolved", Self::Resolved), ("available", Self::Available)];
}

/// Active probes of a service's endpoints.
#[derive(Debug, Clone)]
pub(crate) struct HealthSettings {
    pub(crate) config: HealthConfig,
    /// None if the service's probe is given to the builder.
    pub(crate) probe: Option<ProbeSettings>,
}

impl ServiceConfig {
    /// A service whose endpoints the resolver knows that is given to the builder under this name.
    pub fn resolved_by(resolver: impl Into<String>) -> Self {
        Self::new(SourceConfig::Resolver(resolver.into()))
    }

    /// A service with these endpoints. That the list is not empty and names none twice is checked when the mesh is built.
    pub fn with_endpoints(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self::new(SourceConfig::Endpoints(endpoints.into_iter().collect()))
    }

    /// A service whose endpoints stand in this file, which is watched: see
    /// [`FileList`](tower_mesh_discovery::FileList) for its form. A relative path is taken from the directory that is current when the mesh is built.
    #[cfg(feature = "file")]
    pub fn from_file(path: impl Into<std::path::PathBuf>) -> Self {
        Self::new(SourceConfig::File(path.into()))
    }

    /// A service whose endpoints DNS is asked for under `name`: see [`DnsResolver::asking`](tower_mesh_dns::DnsResolver::asking) for its form, which is checked when the mesh is
    /// built. Services with the same knobs share one resolver.
    #[cfg(feature = "dns")]
    pub fn from_dns(name: impl Into<String>, config: tower_mesh_dns::DnsConfig) -> Self {
        Self::new(SourceConfig::Dns { name: name.into(), config: Box::new(config) })
    }

    /// A service whose endpoints stand in etcd, under its name. Services with the same knobs share one connection.
    #[cfg(feature = "etcd")]
    pub fn from_etcd(config: tower_mesh_etcd::EtcdConfig) -> Self {
        Self::new(SourceConfig::Etcd(Box::new(config)))
    }

    fn new(source: SourceConfig) -> Self {
        Self {
            source,
            required: true,
            allow: None,
            operations: BTreeMap::new(),
            ready_when: ReadyWhen::Resolved,
            discovery: DiscoveryConfig::default(),
            locality: None,
            rest_after: None,
            deadline: DeadlineConfig::default(),
            retry: RetryConfig::default(),
            budget: BudgetConfig::default(),
            hedge: Self::hedge_builder().build().expect("the mesh's defaults are right"),
            breaker: Self::breaker_builder().build().expect("the mesh's defaults are right"),
            limit: None,
            admission: None,
            outlier: None,
            health: None,
            credentials: None,
        }
    }

    /// The breaker's defaults in a mesh.
    pub(crate) fn breaker_builder() -> tower_mesh_breaker::BreakerConfigBuilder {
        BreakerConfig::builder().reset_timeout(Duration::from_secs(30))
    }

    /// Hedging's defaults in a mesh: off.
    pub(crate) fn hedge_builder() -> HedgeConfigBuilder {
        HedgeConfig::builder().max_hedges(0)
    }

    /// Whether [`Mesh::start`](crate::Mesh::start) fails if the service cannot be resolved, and whether
    /// [`Mesh::readiness`](crate::Mesh::readiness) goes by it at all. Default true.
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    /// What is otherwise for one operation than for the service; what a call itself asks for stands above it.
    pub fn operation(mut self, operation: Operation, options: CallOptions) -> Self {
        self.operations.insert(operation, options);
        self
    }

    /// Who may call which of its operations; all others are refused with [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) before anything
    /// is sent. Default: all may call everything.
    pub fn allow(mut self, list: AllowList) -> Self {
        self.allow = Some(list);
        self
    }

    /// What the program's own readiness wants of the service, if it is required. Default that it is resolved.
    pub fn ready_when(mut self, ready_when: ReadyWhen) -> Self {
        self.ready_when = ready_when;
        self
    }

    /// Waiting for endpoints, and judging their load.
    pub fn discovery(mut self, config: DiscoveryConfig) -> Self {
        self.discovery = config;
        self
    }

    /// Where this program stands: endpoints of the same locality are preferred. Default none: localities are not looked at. See
    /// [`DiscoveryLayer::locality`](tower_mesh_discovery::DiscoveryLayer::locality).
    pub fn locality(mut self, own: impl AsRef<str>) -> Self {
        self.locality = Some(own.as_ref().into());
        self
    }

    /// How long without calls until the source of endpoints is not listened to any more, until the next call. From 1 s to 1 day, checked when the mesh is built. Default none: it always
    /// is. See [`Driver::resting`](tower_mesh_discovery::Driver::resting).
    pub fn rest_after(mut self, idle: Duration) -> Self {
        self.rest_after = Some(idle);
        self
    }

    fn rest_mistake(idle: Duration) -> Option<Mistake> {
        let right = (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&idle);
        (!right).then(|| Mistake::new("rest_after", format_args!("{idle:?}"), "1s to 1day"))
    }

    pub(crate) fn is_locality(text: &str) -> bool {
        Endpoint::new("any:1").and_then(|endpoint| endpoint.with_locality(text)).is_ok()
    }

    /// The bound on the whole call.
    pub fn deadline(mut self, config: DeadlineConfig) -> Self {
        self.deadline = config;
        self
    }

    /// Attempts and the waits between them.
    pub fn retry(mut self, config: RetryConfig) -> Self {
        self.retry = config;
        self
    }

    /// How much retries may add to the traffic.
    pub fn budget(mut self, config: BudgetConfig) -> Self {
        self.budget = config;
        self
    }

    /// When another endpoint is asked beside the first; out of the same budget.
    pub fn hedge(mut self, config: HedgeConfig) -> Self {
        self.hedge = config;
        self
    }

    /// When an endpoint's circuit opens.
    pub fn breaker(mut self, config: BreakerConfig) -> Self {
        self.breaker = config;
        self
    }

    /// How many calls may be under way at a time; what finds no room is refused with [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    pub fn limit(mut self, config: LimitConfig) -> Self {
        self.limit = Some(config);
        self
    }

    /// Refuses calls by chance while too few of them succeed.
    pub fn admission(mut self, config: SuccessRateConfig) -> Self {
        self.admission = Some(config);
        self
    }

    pub(crate) fn admission_config(&self) -> AdmissionConfig {
        AdmissionConfig::new().limit(self.limit).success_rate(self.admission)
    }

    /// Ejects endpoints that are outliers among their peers.
    pub fn outlier(mut self, config: OutlierConfig) -> Self {
        self.outlier = Some(config);
        self
    }

    /// Probes the endpoints, with the probe that the builder is given for this service.
    pub fn health(mut self, config: HealthConfig) -> Self {
        self.health = Some(HealthSettings { config, probe: None });
        self
    }

    /// Probes the endpoints by asking for `path` over HTTP.
    #[cfg(feature = "http")]
    pub fn http_health(mut self, config: HealthConfig, path: impl Into<String>) -> Self {
        self.health = Some(HealthSettings { config, probe: Some(ProbeSettings::get(path.into())) });
        self
    }

    /// Sends the bearer token in this file with every request of the service that has no `authorization`, through `http`, `reqwest` and `grpc`. The file is read when the mesh is
    /// built, and `every` so often while it runs: from 100 ms to 1 day, checked when the mesh is built.
    #[cfg(feature = "credentials")]
    pub fn bearer_file(self, path: impl Into<std::path::PathBuf>, every: Duration) -> Self {
        let source = TokenSource::File(path.into());
        Self { credentials: Some(CredentialsConfig { source, reload: every }), ..self }
    }

    /// The same with the token in this variable of the environment, as it is when the mesh is built.
    #[cfg(feature = "credentials")]
    pub fn bearer_env(self, name: impl Into<String>) -> Self {
        let source = TokenSource::Environment(name.into());
        Self { credentials: Some(CredentialsConfig { source, reload: CredentialsConfig::RELOAD }), ..self }
    }

    /// What is wrong with it on its own. What its tables hold is right, or it could not have been built.
    fn mistakes(&self) -> Vec<Mistake> {
        let resting = self.rest_after.and_then(Self::rest_mistake).map(|mistake| mistake.under("discovery"));
        let credentials = self.credentials.as_ref().and_then(CredentialsConfig::mistake);
        resting.into_iter().chain(credentials).chain(self.endpoint_mistakes()).collect()
    }

    fn endpoint_mistakes(&self) -> Vec<Mistake> {
        let SourceConfig::Endpoints(endpoints) = &self.source else { return Vec::new() };
        if endpoints.is_empty() {
            return vec![Mistake::new("endpoints", "an empty list", AT_LEAST_ONE)];
        }
        let mut seen = HashSet::new();
        let twice = endpoints.iter().enumerate().filter(|(_, endpoint)| !seen.insert(endpoint.id()));
        twice.map(|(i, endpoint)| again(i, endpoint)).collect()
    }
}

const AT_LEAST_ONE: &str = "at least one endpoint, or another source";

/// The mistake of an endpoint that stands in the list already.
fn again(i: usize, endpoint: &Endpoint) -> Mistake {
    Mistake::new(format!("endpoints[{i}]"), format_args!("{} again", endpoint.id()), "each endpoint once")
}

/// A configuration that is not used. Whatever was in use before stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// Its path.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// It is not TOML, not JSON or not YAML; or it is YAML, and this build reads none.
    Malformed {
        /// The path of the file, if it was read from one.
        path: Option<String>,
        /// What the parser says, with the place.
        error: BoxError,
    },
    /// It says something that cannot be.
    Invalid(InvalidConfig),
    /// Another [reload](crate::Mesh::reload) is under way.
    Busy,
}

impl ConfigError {
    /// The mistakes, if it could be read at all.
    pub fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Invalid(invalid) => invalid.mistakes(),
            Self::Unreadable { .. } | Self::Malformed { .. } | Self::Busy => &[],
        }
    }
}

impl From<InvalidConfig> for ConfigError {
    fn from(invalid: InvalidConfig) -> Self {
        Self::Invalid(invalid)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(f, "cannot read configuration {path}: {error}"),
            Self::Malformed { path: Some(path), error } => {
                write!(f, "cannot parse configuration {path}: {error}")
            }
            Self::Malformed { path: None, error } => write!(f, "cannot parse configuration: {error}"),
            Self::Invalid(invalid) => invalid.fmt(f),
            Self::Busy => f.write_str("another reload is under way"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { error, .. } => Some(error),
            Self::Malformed { error, .. } => Some(&**error),
            Self::Invalid(invalid) => Some(invalid),
            Self::Busy => None,
        }
    }
}
