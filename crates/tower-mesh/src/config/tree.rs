//! Which fields there are, and what becomes of them.

use std::collections::HashSet;

use serde_json::Value;
use tower_mesh_breaker::{BreakerConfig, BreakerConfigBuilder, WindowKind};
use tower_mesh_core::backoff::Jitter;
use tower_mesh_core::error::Mistake;
use tower_mesh_core::{Endpoint, ServiceName};
use tower_mesh_discovery::{DiscoveryConfig, DiscoveryConfigBuilder};
use tower_mesh_health::{HealthConfig, HealthConfigBuilder};
use tower_mesh_retry::{
    BudgetConfig, BudgetConfigBuilder, DeadlineConfig, DeadlineConfigBuilder, RetryConfig, RetryConfigBuilder,
};

use super::read::Table;
use super::{AT_LEAST_ONE, Config, Draft, HealthSettings, ServiceConfig, SourceConfig, again, path_of};

/// Reads a whole tree.
pub(super) fn read(tree: &Value) -> Draft {
    let mut root = Table::root(tree);
    let mut config = Config::default();
    if let Some(timeout) = root.duration("start_timeout") {
        match Config::start_timeout_mistake(timeout) {
            None => config.start_timeout = timeout,
            Some(mistake) => root.add(mistake),
        }
    }

    // Builders hold raw values, so the defaults of the file are simply where each service's reading begins. What is wrong in them is told once,
    // not again for every service.
    let mut defaults = root.table("defaults");
    let mut base = Policies::default();
    base.read(&mut defaults);
    root.absorb(defaults);

    for (name, mut table) in root.named_tables("services") {
        let service = read_service(&mut table, base.clone());
        root.absorb(table);
        match name.parse::<ServiceName>() {
            Ok(name) => {
                config.services.insert(name, service);
            }
            Err(_) => root.add(Mistake::new(path_of("services", name), "an invalid name", NAME)),
        }
    }
    Draft { config, mistakes: root.finish() }
}

const NAME: &str = "1 to 253 ASCII letters, digits and - _ . : / between a letter or digit at each end";
const ADDRESS: &str = "1 to 1024 bytes without blanks or control characters";

fn read_service(table: &mut Table<'_>, mut policies: Policies) -> ServiceConfig {
    let mut service = ServiceConfig::new(read_source(table));
    service.required = table.flag("required").unwrap_or(true);
    let built = policies.read(table);
    service.discovery = built.discovery;
    service.deadline = built.deadline;
    service.retry = built.retry;
    service.budget = built.budget;
    service.breaker = built.breaker;
    service.health =
        policies.probed.then_some(HealthSettings { config: built.health, path: policies.health_path });
    service
}

fn read_source(table: &mut Table<'_>) -> SourceConfig {
    let resolver = table.text("resolver");
    let file = table.text("file");
    let addresses = table.texts("endpoints");
    let given =
        ["resolver", "file", "endpoints"].into_iter().filter(|key| table.has(key)).collect::<Vec<_>>();
    match &*given {
        [] => table.mistake("resolver", "nothing", "a resolver, a file, or a list of endpoints"),
        [_] => {}
        [first, others @ ..] => {
            let found = format!("{first} beside {}", others.join(" and "));
            table.mistake(first, found, "one of them");
        }
    }
    if let Some(name) = resolver {
        return SourceConfig::Resolver(name.to_owned());
    }
    if let Some(path) = file {
        if path.is_empty() {
            table.mistake("file", "\"\"", "a path");
        } else if cfg!(not(feature = "file")) {
            table.mistake(
                "file",
                format_args!("{path:?}"),
                "nothing: this build reads no files (feature file)",
            );
        }
        return SourceConfig::File(path.into());
    }
    if table.is_empty_list("endpoints") {
        table.mistake("endpoints", "an empty list", AT_LEAST_ONE);
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut seen = HashSet::new();
    for (i, address) in addresses.unwrap_or_default() {
        match address.parse::<Endpoint>() {
            Ok(endpoint) if seen.insert(endpoint.id().clone()) => endpoints.push(endpoint),
            Ok(endpoint) => table.add(again(i, &endpoint)),
            Err(_) => {
                let found = format!("{:?}", address.chars().take(64).collect::<String>());
                table.add(Mistake::new(format!("endpoints[{i}]"), found, ADDRESS));
            }
        }
    }
    SourceConfig::Endpoints(endpoints)
}

/// The tables of a service under construction.
#[derive(Clone)]
struct Policies {
    discovery: DiscoveryConfigBuilder,
    deadline: DeadlineConfigBuilder,
    retry: RetryConfigBuilder,
    budget: BudgetConfigBuilder,
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

/// What a builder makes; if it refuses, that is told and it is as if nothing had been said: `checked!(table, builder, fresh)`.
macro_rules! checked {
    ($table:expr, $builder:expr, $fresh:expr) => {
        match $table.checked($builder.build()) {
            Some(config) => config,
            None => {
                $builder = $fresh;
                $builder.build().expect("the mesh's defaults are right")
            }
        }
    };
}

impl Policies {
    /// Takes in the tables that are there. The mistakes are in `table`; a table that is wrong counts as if it said nothing.
    fn read(&mut self, table: &mut Table<'_>) -> Built {
        let mut part = table.table("discovery");
        set!(self.discovery, part, ready_timeout: duration, latency_decay: duration, failure_penalty: duration,
            stalled_after: duration, merge_window: duration, max_stale: duration, removal_grace: duration,
            empty_grace: duration, keep_healthy: flag);
        if let Some(max) = part.count("max_endpoints") {
            self.discovery = self.discovery.max_endpoints(max as usize);
        }
        let discovery = checked!(part, self.discovery, Policies::default().discovery);
        table.absorb(part);

        let mut part = table.table("deadline");
        set!(self.deadline, part, timeout: duration);
        let deadline = checked!(part, self.deadline, Policies::default().deadline);
        table.absorb(part);

        let mut part = table.table("retry");
        set!(self.retry, part, max_attempts: count, base_delay: duration, max_delay: duration,
            attempt_timeout: duration, max_wait: duration, ready_timeout: duration);
        if let Some(jitter) = part.word("jitter", JITTERS) {
            self.retry = self.retry.jitter(jitter);
        }
        let retry = checked!(part, self.retry, Policies::default().retry);
        table.absorb(part);

        let mut part = table.table("budget");
        set!(self.budget, part, ratio: number, min_per_second: count, ttl: duration, min_concurrency: count);
        let budget = checked!(part, self.budget, Policies::default().budget);
        table.absorb(part);

        let mut part = table.table("breaker");
        set!(self.breaker, part, failure_threshold: number, min_calls: count, consecutive_failures: count,
            slow_call_duration: duration, slow_call_threshold: number, reset_timeout: duration,
            max_reset_timeout: duration, half_open_permits: count, stalled_after: duration);
        match (part.duration("window"), part.count("window_calls")) {
            (Some(window), None) => self.breaker = self.breaker.window(WindowKind::Time(window)),
            (None, Some(calls @ 1..=1_000_000)) => {
                self.breaker = self.breaker.window(WindowKind::Calls(calls));
            }
            (None, Some(calls)) => part.mistake("window_calls", calls, "1 to 1000000"),
            (Some(_), Some(calls)) => {
                part.mistake("window_calls", format_args!("{calls} beside window"), "one of the two");
            }
            (None, None) => {}
        }
        let breaker = checked!(part, self.breaker, Policies::default().breaker);
        table.absorb(part);

        self.probed |= table.has("health");
        let mut part = table.table("health");
        set!(self.health, part, interval: duration, unhealthy_interval: duration, healthy_edge_interval: duration,
            unhealthy_edge_interval: duration, no_traffic_interval: duration, timeout: duration, rise: count,
            fall: count, jitter: number, initial_spread: duration);
        if let Some(max) = part.count("max_concurrent") {
            self.health = self.health.max_concurrent(max as usize);
        }
        if part.has("path") {
            self.health_path = Some(part.text("path").unwrap_or_default().to_owned());
        }
        let health = checked!(part, self.health, Policies::default().health);
        table.absorb(part);

        Built { discovery, deadline, retry, budget, breaker, health }
    }
}

const JITTERS: &[(&str, Jitter)] = &[
    ("none", Jitter::None),
    ("full", Jitter::Full),
    ("equal", Jitter::Equal),
    ("decorrelated", Jitter::Decorrelated),
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
            [services.orders]
            endpoints = []
            [services.orders.breaker]
            window = "10s"
            window_calls = 10
            [services."no name"]
            resolver = "x"
            [services.lost]
            [services.both]
            resolver = "x"
            endpoints = ["a:1"]
            [services.filed]
            file = ""
            "#,
        );
        let fields: Vec<_> = mistakes.iter().map(|(field, _)| field.as_str()).collect();
        for field in [
            "start_timeout",
            "colour",
            "defaults.breaker.failure_threshold",
            "services.users.endpoints[2]",
            "services.users.endpoints[1]",
            "services.users.retry.max_attempts",
            "services.users.retry.base_delay",
            "services.users.retry.max_atempts",
            "services.orders.endpoints",
            "services.orders.breaker.window_calls",
            "services.\"no name\"",
            "services.lost.resolver",
            "services.both.resolver",
            "services.filed.file",
        ] {
            assert!(fields.contains(&field), "{field} not in {fields:?}");
        }
        assert_eq!(fields.len(), 14, "each once: {mistakes:?}");
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
        assert!(a.health.is_none() && !b.required);
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
        assert!(matches!(Config::from_json("{"), Err(crate::config::ConfigError::Malformed { .. })));
    }
}
