//! The configuration of one service.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tower_mesh_admission::{AdmissionConfig, LimitConfig, SuccessRateConfig};
use tower_mesh_breaker::BreakerConfig;
use tower_mesh_breaker::outlier::OutlierConfig;
use tower_mesh_core::error::Mistake;
use tower_mesh_core::{CallOptions, Endpoint, Operation};
use tower_mesh_discovery::DiscoveryConfig;
use tower_mesh_health::HealthConfig;
use tower_mesh_retry::{BudgetConfig, DeadlineConfig, HedgeConfig, HedgeConfigBuilder, RetryConfig};

#[cfg(feature = "credentials")]
use super::TokenSource;
use super::{CredentialsConfig, ProbeSettings, SourceConfig};
use crate::authorize::AllowList;

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

    pub(super) fn new(source: SourceConfig) -> Self {
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

    pub(super) fn rest_mistake(idle: Duration) -> Option<Mistake> {
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
    pub(super) fn mistakes(&self) -> Vec<Mistake> {
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

pub(super) const AT_LEAST_ONE: &str = "at least one endpoint, or another source";

/// The mistake of an endpoint that stands in the list already.
pub(super) fn again(i: usize, endpoint: &Endpoint) -> Mistake {
    Mistake::new(format!("endpoints[{i}]"), format_args!("{} again", endpoint.id()), "each endpoint once")
}
