//! Which fields there are, and what becomes of them.

use serde_json::Value;
use tower_mesh_breaker::outlier::{Dialect, OutlierConfig, OutlierConfigBuilder};
use tower_mesh_breaker::{BreakerConfig, BreakerConfigBuilder, OpenDelay, Origins, WindowKind};
use tower_mesh_core::backoff::Jitter;
use tower_mesh_core::classify::Origin;
use tower_mesh_core::error::InvalidConfig;
use tower_mesh_core::{Endpoint, ServiceName};
use tower_mesh_discovery::{DiscoveryConfig, DiscoveryConfigBuilder};
use tower_mesh_health::{HealthConfig, HealthConfigBuilder};
use tower_mesh_retry::{
    BudgetConfig, BudgetConfigBuilder, DeadlineConfig, DeadlineConfigBuilder, RetryConfig, RetryConfigBuilder,
};

use super::read::Table;
use super::{Config, HealthSettings, ServiceConfig, SourceConfig};

/// Reads a whole tree.
pub(super) fn read(tree: &Value) -> Result<Config, InvalidConfig> {
    let mut root = Table::root(tree);
    let mut config = Config::default();
    if let Some(timeout) = root.duration("start_timeout") {
        config.start_timeout = timeout;
    }

    // Builders hold raw values, so the defaults of the file are simply where each service's reading begins. What is wrong in them is told once,
    // not again for every service.
    let mut defaults = root.table("defaults");
    let (base, built) = Policies::default().read(&mut defaults);
    root.absorb(defaults);
    let base = if built.is_some() { base } else { Policies::default() };

    for (name, mut table) in root.named_tables("services") {
        let service = read_service(&mut table, &base);
        match name.parse::<ServiceName>() {
            Ok(name) => {
                if let Some(service) = service {
                    config.services.insert(name, service);
                }
            }
            Err(error) => root.mistake("services", format_args!("{name:?}"), &error.to_string()),
        }
        root.absorb(table);
    }
    InvalidConfig::check(root.finish())?;
    Ok(config)
}

fn read_service(table: &mut Table<'_>, base: &Policies) -> Option<ServiceConfig> {
    let source = read_source(table);
    let required = table.flag("required").unwrap_or(true);
    let (policies, built) = base.clone().read(table);
    let mut service = ServiceConfig::new(source?);
    for mistake in service.mistakes() {
        table.add(mistake);
    }
    let built = built?;
    service.required = required;
    service.discovery = built.discovery;
    service.deadline = built.deadline;
    service.retry = built.retry;
    service.budget = built.budget;
    service.breaker = built.breaker;
    service.outlier = policies.ejecting.then_some(built.outlier);
    service.health =
        policies.probed.then_some(HealthSettings { config: built.health, path: policies.health_path });
    Some(service)
}

fn read_source(table: &mut Table<'_>) -> Option<SourceConfig> {
    let resolver = table.text("resolver");
    let Some(addresses) = table.texts("endpoints") else {
        if resolver.is_none() {
            table.mistake("resolver", "nothing", "a resolver, or a list of endpoints");
        }
        return resolver.map(|name| SourceConfig::Resolver(name.to_owned()));
    };
    if let Some(name) = resolver {
        table.mistake("resolver", format_args!("{name:?} beside endpoints"), "one of the two");
    }
    let mut endpoints = Vec::new();
    for address in addresses {
        match address.parse::<Endpoint>() {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(error) => table.mistake("endpoints", format_args!("{address:?}"), &error.to_string()),
        }
    }
    Some(SourceConfig::Endpoints(endpoints))
}

/// The tables of a service under construction.
#[derive(Clone)]
struct Policies {
    discovery: DiscoveryConfigBuilder,
    deadline: DeadlineConfigBuilder,
    retry: RetryConfigBuilder,
    budget: BudgetConfigBuilder,
    breaker: BreakerConfigBuilder,
    outlier: OutlierConfigBuilder,
    ejecting: bool,
    health: HealthConfigBuilder,
    health_path: Option<String>,
    probed: bool,
}

/// The same, checked.
struct Built {
    discovery: DiscoveryConfig,
    deadline: DeadlineConfig,
    retry: RetryConfig,
    budget: BudgetConfig,
    breaker: BreakerConfig,
    outlier: OutlierConfig,
    health: HealthConfig,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            discovery: DiscoveryConfig::builder(),
            deadline: DeadlineConfig::builder(),
            retry: RetryConfig::builder(),
            budget: BudgetConfig::builder(),
            breaker: ServiceConfig::breaker_builder(),
            outlier: OutlierConfig::builder(),
            ejecting: false,
            health: HealthConfig::builder(),
            health_path: None,
            probed: false,
        }
    }
}

/// Sets on a builder each field that is there: `set!(builder, table, method: getter, …)`, the method having the field's name.
macro_rules! set {
    ($builder:expr, $table:expr, $($field:ident: $getter:ident),+ $(,)?) => {
        $(if let Some(value) = $table.$getter(stringify!($field)) {
            $builder = $builder.$field(value);
        })+
    };
}

impl Policies {
    /// Takes in the tables that are there. None built if any of them is wrong; the mistakes are in `table`.
    fn read(mut self, table: &mut Table<'_>) -> (Self, Option<Built>) {
        let mut part = table.table("discovery");
        set!(self.discovery, part, ready_timeout: duration, latency_decay: duration, failure_penalty: duration,
            stalled_after: duration);
        if let Some(max) = part.count("max_endpoints") {
            self.discovery = self.discovery.max_endpoints(max as usize);
        }
        let discovery = part.checked(self.discovery.build());
        table.absorb(part);

        let mut part = table.table("deadline");
        set!(self.deadline, part, timeout: duration);
        let deadline = part.checked(self.deadline.build());
        table.absorb(part);

        let mut part = table.table("retry");
        set!(self.retry, part, max_attempts: count, base_delay: duration, max_delay: duration,
            attempt_timeout: duration, max_wait: duration, ready_timeout: duration);
        if let Some(jitter) = part.word("jitter", JITTERS) {
            self.retry = self.retry.jitter(jitter);
        }
        let retry = part.checked(self.retry.build());
        table.absorb(part);

        let mut part = table.table("budget");
        set!(self.budget, part, ratio: number, min_per_second: count, ttl: duration, min_concurrency: count);
        let budget = part.checked(self.budget.build());
        table.absorb(part);

        let mut part = table.table("breaker");
        set!(self.breaker, part, failure_threshold: number, min_calls: count, consecutive_failures: count,
            slow_call_duration: duration, slow_call_threshold: number, reset_timeout: duration,
            max_reset_timeout: duration, half_open_permits: count, ramp: duration, stalled_after: duration);
        if let Some(origins) = origins(&mut part, "failure_origins") {
            self.breaker = self.breaker.failure_origins(origins);
        }
        if let Some(origins) = origins(&mut part, "consecutive_origins") {
            self.breaker = self.breaker.consecutive_origins(origins);
        }
        if let Some(delay) = part.word("open_delay", OPEN_DELAYS) {
            self.breaker = self.breaker.open_delay(delay);
        }
        match (part.duration("window"), part.count("window_calls")) {
            (Some(window), None) => self.breaker = self.breaker.window(WindowKind::Time(window)),
            (None, Some(calls)) => self.breaker = self.breaker.window(WindowKind::Calls(calls)),
            (Some(_), Some(calls)) => {
                part.mistake("window_calls", format_args!("{calls} beside window"), "one of the two");
            }
            (None, None) => {}
        }
        let breaker = part.checked(self.breaker.build());
        table.absorb(part);

        self.ejecting |= table.has("outlier");
        let mut part = table.table("outlier");
        set!(self.outlier, part, interval: duration, consecutive_failures: count, consecutive_local: count,
            split_local: flag, success_rate_factor: number, success_rate_min_hosts: count,
            success_rate_min_calls: count, failure_threshold: number, failure_min_hosts: count,
            failure_min_calls: count, latency_factor: number, latency_min_hosts: count, latency_min_calls: count,
            enforce_consecutive: number, enforce_consecutive_local: number, enforce_success_rate: number,
            enforce_failure_share: number, enforce_latency: number, base_ejection_time: duration,
            max_ejection_time: duration, max_ejection_jitter: duration, max_ejection_percent: count,
            at_least_one: flag, believe_probes: flag, stalled_after: duration);
        if let Some(dialect) = part.word("dialect", DIALECTS) {
            self.outlier = self.outlier.dialect(dialect);
        }
        let outlier = part.checked(self.outlier.build());
        table.absorb(part);

        self.probed |= table.has("health");
        let mut part = table.table("health");
        set!(self.health, part, interval: duration, unhealthy_interval: duration, healthy_edge_interval: duration,
            unhealthy_edge_interval: duration, no_traffic_interval: duration, timeout: duration, rise: count,
            fall: count, jitter: number, initial_spread: duration);
        if let Some(max) = part.count("max_concurrent") {
            self.health = self.health.max_concurrent(max as usize);
        }
        if let Some(path) = part.text("path") {
            self.health_path = Some(path.to_owned());
        }
        let health = part.checked(self.health.build());
        table.absorb(part);

        let built = || {
            Some(Built {
                discovery: discovery?,
                deadline: deadline?,
                retry: retry?,
                budget: budget?,
                breaker: breaker?,
                outlier: outlier?,
                health: health?,
            })
        };
        let built = built();
        (self, built)
    }
}

const JITTERS: &[(&str, Jitter)] = &[
    ("none", Jitter::None),
    ("full", Jitter::Full),
    ("equal", Jitter::Equal),
    ("decorrelated", Jitter::Decorrelated),
];

/// A list of origins of failures.
fn origins(table: &mut Table<'_>, key: &'static str) -> Option<Origins> {
    let mut origins = Vec::new();
    for name in table.texts(key)? {
        match name {
            "local" => origins.push(Origin::Local),
            "remote" => origins.push(Origin::Remote),
            "overload" => origins.push(Origin::Overload),
            other => table.mistake(key, format_args!("{other:?}"), "local, remote, overload"),
        }
    }
    Some(Origins::of(origins))
}

const DIALECTS: &[(&str, Dialect)] = &[("envoy", Dialect::Envoy), ("grpc", Dialect::Grpc)];

const OPEN_DELAYS: &[(&str, OpenDelay)] =
    &[("growing", OpenDelay::Growing), ("fixed", OpenDelay::Fixed), ("as-asked", OpenDelay::AsAsked)];

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn wrong(text: &str) -> Vec<(String, String)> {
        let error = Config::from_toml(text).unwrap_err();
        error
            .mistakes()
            .iter()
            .map(|mistake| (mistake.field().to_owned(), mistake.found().to_owned()))
            .collect()
    }

    #[test]
    fn every_mistake_of_a_file_is_told_at_once_with_its_path() {
        let mistakes = wrong(
            r#"
            start_timeout = 5
            colour = "blue"
            [defaults.breaker]
            failure_threshold = 1.5
            [services.users]
            endpoints = ["a:1", "a:1", "not an address"]
            [services.users.retry]
            max_attempts = 0
            base_delay = "1"
            max_atempts = 3
            [services.orders]
            endpoints = []
            [services.orders.breaker]
            window = "10s"
            window_calls = 10
            [services."no name"]
            resolver = "x"
            [services.lost]
            "#,
        );
        let fields: Vec<_> = mistakes.iter().map(|(field, _)| field.as_str()).collect();
        for field in [
            "start_timeout",
            "colour",
            "defaults.breaker.failure_threshold",
            "services.users.endpoints",
            "services.users.endpoints[1]",
            "services.users.retry.max_attempts",
            "services.users.retry.base_delay",
            "services.users.retry.max_atempts",
            "services.orders.endpoints",
            "services.orders.breaker.window_calls",
            "services",
            "services.lost.resolver",
        ] {
            assert!(fields.contains(&field), "{field} not in {fields:?}");
        }
        assert_eq!(fields.len(), 12, "each once: {mistakes:?}");
    }

    #[test]
    fn defaults_of_the_file_stand_below_each_service_and_those_of_the_mesh_below_them() {
        let config = Config::from_toml(
            r#"
            [defaults.retry]
            max_attempts = 5
            base_delay = "20ms"
            [services.a]
            resolver = "r"
            [services.b]
            resolver = "r"
            required = false
            [services.b.retry]
            max_attempts = 2
            jitter = "equal"
            [services.b.breaker]
            open_delay = "as-asked"
            consecutive_origins = ["remote"]
            ramp = "20s"
            [services.b.health]
            path = "/healthz"
            interval = "250ms"
            "#,
        )
        .unwrap();
        let service = |name: &str| &config.services[name];
        let (a, b) = (service("a"), service("b"));
        assert_eq!((a.retry.max_attempts(), a.retry.base_delay()), (5, Duration::from_millis(20)));
        assert_eq!((b.retry.max_attempts(), b.retry.base_delay()), (2, Duration::from_millis(20)));
        assert_eq!(
            (a.breaker.reset_timeout(), a.deadline.timeout()),
            (Duration::from_secs(30), Some(Duration::from_secs(15)))
        );
        assert_eq!((a.breaker.open_delay(), a.breaker.ramp()), (OpenDelay::Growing, Duration::ZERO));
        assert_eq!((b.breaker.open_delay(), b.breaker.ramp()), (OpenDelay::AsAsked, Duration::from_secs(20)));
        assert_eq!(b.breaker.consecutive_origins(), Origins::of([Origin::Remote]));
        assert_eq!(
            wrong("[services.a]\nresolver = \"r\"\n[services.a.breaker]\nfailure_origins = [\"moon\"]"),
            [("services.a.breaker.failure_origins".to_owned(), "\"moon\"".to_owned())]
        );
        assert!(a.health.is_none() && !b.required);
        let health = b.health.as_ref().unwrap();
        assert_eq!(
            (health.path.as_deref(), health.config.interval()),
            (Some("/healthz"), Duration::from_millis(250))
        );
    }

    #[test]
    fn a_table_turns_ejection_on_for_one_service_or_for_all() {
        let config = Config::from_toml(
            r#"
            [services.a]
            resolver = "r"
            [services.b]
            resolver = "r"
            [services.b.outlier]
            max_ejection_percent = 50
            dialect = "grpc"
            split_local = true
            "#,
        )
        .unwrap();
        assert_eq!(config.services["a"].outlier, None);
        let outlier = config.services["b"].outlier.unwrap();
        assert_eq!((outlier.max_ejection_percent(), outlier.dialect()), (50, Dialect::Grpc));
        assert!(outlier.split_local());
        let all = Config::from_toml("[defaults.outlier]\n[services.a]\nresolver = \"r\"").unwrap();
        assert_eq!(all.services["a"].outlier, Some(OutlierConfig::default()));
        let wrong = wrong("[services.a]\nresolver = \"r\"\n[services.a.outlier]\nmax_ejection_percent = 101");
        assert_eq!(wrong[0].0, "services.a.outlier.max_ejection_percent");
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml =
            Config::from_toml("[services.a]\nendpoints = [\"h:1\"]\n[services.a.budget]\nratio = 1").unwrap();
        let json =
            Config::from_json(r#"{"services": {"a": {"endpoints": ["h:1"], "budget": {"ratio": 1}}}}"#)
                .unwrap();
        assert_eq!(format!("{:?}", toml.services["a"]), format!("{:?}", json.services["a"]));
        assert!(matches!(Config::from_json("{"), Err(crate::config::ConfigError::Malformed(_))));
    }
}
