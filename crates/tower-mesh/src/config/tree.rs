//! Which fields there are, and what becomes of them.

use serde_json::Value;
use tower_mesh_breaker::{BreakerConfig, BreakerConfigBuilder, WindowKind};
use tower_mesh_core::backoff::Jitter;
use tower_mesh_core::error::InvalidConfig;
use tower_mesh_core::{Endpoint, ServiceName};
use tower_mesh_discovery::{DiscoveryConfig, DiscoveryConfigBuilder};
use tower_mesh_health::{HealthConfig, HealthConfigBuilder};
use tower_mesh_retry::{
    BudgetConfig, BudgetConfigBuilder, DeadlineConfig, DeadlineConfigBuilder, GrowthKind, HedgeConfig,
    HedgeConfigBuilder, RetryConfig, RetryConfigBuilder,
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
    service.hedge = built.hedge;
    service.breaker = built.breaker;
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
    hedge: HedgeConfigBuilder,
    hedged: bool,
    breaker: BreakerConfigBuilder,
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
    hedge: HedgeConfig,
    breaker: BreakerConfig,
    health: HealthConfig,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            discovery: DiscoveryConfig::builder(),
            deadline: DeadlineConfig::builder(),
            retry: RetryConfig::builder(),
            budget: BudgetConfig::builder(),
            hedge: ServiceConfig::hedge_builder(),
            hedged: false,
            breaker: ServiceConfig::breaker_builder(),
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
        set!(self.retry, part, max_attempts: count, max_local_failures: count, max_remote_failures: count,
            max_overloads: count, max_refusals: count, base_delay: duration, max_delay: duration,
            multiplier: number, attempt_timeout: duration, max_wait: duration, ready_timeout: duration);
        if let Some(growth) = part.word("growth", GROWTHS) {
            self.retry = self.retry.growth(growth);
        }
        if let Some(jitter) = part.word("jitter", JITTERS) {
            self.retry = self.retry.jitter(jitter);
        }
        let retry = part.checked(self.retry.build());
        table.absorb(part);

        let mut part = table.table("budget");
        set!(self.budget, part, ratio: number, min_per_second: count, ttl: duration, min_concurrency: count,
            active_ratio: number, max_tokens: count, token_ratio: number);
        let budget = part.checked(self.budget.build());
        table.absorb(part);

        if table.has("hedge") && !std::mem::replace(&mut self.hedged, true) {
            self.hedge = HedgeConfig::builder();
        }
        let mut part = table.table("hedge");
        set!(self.hedge, part, max_hedges: count, delay: duration, percentile: number, ready_timeout: duration);
        let hedge = part.checked(self.hedge.build());
        table.absorb(part);

        let mut part = table.table("breaker");
        set!(self.breaker, part, failure_threshold: number, min_calls: count, consecutive_failures: count,
            slow_call_duration: duration, slow_call_threshold: number, reset_timeout: duration,
            max_reset_timeout: duration, half_open_permits: count, stalled_after: duration);
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

        let (Some(discovery), Some(deadline), Some(retry)) = (discovery, deadline, retry) else {
            return (self, None);
        };
        let (Some(budget), Some(hedge), Some(breaker), Some(health)) = (budget, hedge, breaker, health)
        else {
            return (self, None);
        };
        (self, Some(Built { discovery, deadline, retry, budget, hedge, breaker, health }))
    }
}

const JITTERS: &[(&str, Jitter)] = &[
    ("none", Jitter::None),
    ("full", Jitter::Full),
    ("equal", Jitter::Equal),
    ("decorrelated", Jitter::Decorrelated),
    // The shares are those of the systems that they come from.
    ("proportional", Jitter::Proportional(20)),
    ("additive", Jitter::Additive(50)),
    ("symmetric", Jitter::Symmetric(25)),
];

const GROWTHS: &[(&str, GrowthKind)] = &[
    ("constant", GrowthKind::Constant),
    ("linear", GrowthKind::Linear),
    ("exponential", GrowthKind::Exponential),
];

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
            [services.users.budget]
            max_tokens = 1001
            active_ratio = 2
            token_ratio = 0
            [services.users.hedge]
            max_hedges = 5
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
            "services.users.budget.active_ratio",
            "services.users.budget.max_tokens",
            "services.users.budget.token_ratio",
            "services.users.hedge.max_hedges",
            "services.orders.endpoints",
            "services.orders.breaker.window_calls",
            "services",
            "services.lost.resolver",
        ] {
            assert!(fields.contains(&field), "{field} not in {fields:?}");
        }
        assert_eq!(fields.len(), 16, "each once: {mistakes:?}");
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
            jitter = "proportional"
            growth = "linear"
            max_overloads = 1
            multiplier = 3
            [services.b.hedge]
            percentile = 0.95
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
        assert_eq!((b.retry.growth(), b.retry.jitter()), (GrowthKind::Linear, Jitter::Proportional(20)));
        assert_eq!((a.retry.max_overloads(), b.retry.max_overloads()), (None, Some(1)));
        assert_eq!((a.retry.multiplier(), b.retry.multiplier()), (2.0, 3.0));
        assert_eq!(
            (a.breaker.reset_timeout(), a.deadline.timeout()),
            (Duration::from_secs(30), Some(Duration::from_secs(15)))
        );
        assert!(a.health.is_none() && !b.required);
        assert_eq!((a.hedge.max_hedges(), b.hedge.max_hedges()), (0, 1));
        assert_eq!(b.hedge.percentile(), Some(0.95));
        let health = b.health.as_ref().unwrap();
        assert_eq!(
            (health.path.as_deref(), health.config.interval()),
            (Some("/healthz"), Duration::from_millis(250))
        );
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
