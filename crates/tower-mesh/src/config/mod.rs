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
//! In JSON and YAML the tables and fields are the same. Of YAML nothing is taken that a reader could miss: one document, names that are texts, no field twice, no tags of one's own (`!name`; of
//! YAML's, `!!str` and the like, a scalar is read by, and others mean nothing), no merged keys (`<<`), and a table without anything in it is `{}`, since what stands there empty is `null` and refused:
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
//!
//! [`DeadlineConfig`]: tower_mesh_retry::DeadlineConfig
//! [`RetryConfig`]: tower_mesh_retry::RetryConfig
//! [`BudgetConfig`]: tower_mesh_retry::BudgetConfig
//! [`BreakerConfig`]: tower_mesh_breaker::BreakerConfig
//! [`OutlierConfig`]: tower_mesh_breaker::outlier::OutlierConfig
//! [`HealthConfig`]: tower_mesh_health::HealthConfig
//! [`DiscoveryConfig`]: tower_mesh_discovery::DiscoveryConfig

mod credentials;
mod error;
mod overrides;
mod policies;
mod probe;
mod read;
mod service;
mod shape;
mod source;
mod strict;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use tower_mesh_core::error::{InvalidConfig, Mistake};
use tower_mesh_core::{BoxError, Caller, ServiceName};

pub(crate) use self::credentials::CredentialsConfig;
#[cfg(feature = "credentials")]
pub(crate) use self::credentials::TokenSource;
pub use self::error::ConfigError;
pub use self::overrides::Overrides;
pub(crate) use self::probe::ProbeSettings;
#[cfg(feature = "http")]
pub(crate) use self::probe::{HttpSettings, ProbeKind};
pub(crate) use self::service::HealthSettings;
use self::service::{AT_LEAST_ONE, again};
pub use self::service::{ReadyWhen, ServiceConfig};
pub(crate) use self::source::SourceConfig;
use self::strict::Tree;

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
