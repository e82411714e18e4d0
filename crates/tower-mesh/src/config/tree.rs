//! Which fields there are, and what becomes of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tower_mesh_core::error::Mistake;
use tower_mesh_core::{CallOptions, Caller, Operation, Priority, ServiceName};

use super::credentials::Credentials;
use super::policies::Policies;
use super::read::Table;
use super::shape::Shape;
use super::source::Sources;
use super::{Config, Draft, HealthSettings, ReadyWhen, ServiceConfig, path_of};
use crate::authorize::AllowList;

/// Reads a whole tree.
pub(super) fn read(tree: &Value) -> Draft {
    let mut root = Table::root(tree);
    let config = read_root(&mut root);
    Draft { config, mistakes: root.finish() }
}

/// What there may be: the same reading, of a tree that has everything.
pub(super) fn shape() -> Shape {
    let mut root = Table::described();
    read_root(&mut root);
    root.into_shape().expect("it was described")
}

fn read_root(root: &mut Table<'_>) -> Config {
    let mut config = Config::default();
    if let Some(timeout) = root.duration("start_timeout") {
        match Config::start_timeout_mistake(timeout) {
            None => config.start_timeout = timeout,
            Some(mistake) => root.add(mistake),
        }
    }

    if let Some(identity) = root.text("identity") {
        if is_pattern(identity) && !identity.ends_with('*') {
            config.identity = Some(Caller::named(identity));
        } else {
            root.mistake("identity", format_args!("{identity:?}"), "1 to 128 bytes without *");
        }
    }

    // Builders hold raw values, so the defaults of the file are simply where each service's reading begins. What is wrong in them is told once,
    // not again for every service.
    let mut defaults = root.table("defaults");
    let mut base = Policies::default();
    base.read(&mut defaults);
    let mut sources = Sources::default();
    sources.read_defaults(&mut defaults);
    let mut credentials = Credentials::default();
    credentials.read_defaults(&mut defaults);
    let allow = read_allow(&mut defaults);
    root.absorb(defaults);

    for (name, mut table) in root.named_tables("services") {
        let mut service = read_service(&mut table, base.clone(), sources.clone());
        service.credentials = credentials.clone().read(&mut table);
        // A service's own list stands alone: what a default allows is no secret addition to it.
        service.allow = read_allow(&mut table).or_else(|| allow.clone());
        root.absorb(table);
        match name.parse::<ServiceName>() {
            Ok(name) => {
                config.services.insert(name, service);
            }
            Err(_) => root.add(Mistake::new(path_of("services", name), "an invalid name", NAME)),
        }
    }
    config
}

const NAME: &str = "1 to 253 ASCII letters, digits and - _ . : / between a letter or digit at each end";
pub(super) const ADDRESS: &str = "1 to 1024 bytes without blanks or control characters";

fn read_service(table: &mut Table<'_>, mut policies: Policies, sources: Sources) -> ServiceConfig {
    let mut service = ServiceConfig::new(sources.read(table));
    service.required = table.flag("required").unwrap_or(true);
    match table.word("ready_when", &ReadyWhen::ALL) {
        Some(ready_when) if service.required => service.ready_when = ready_when,
        Some(_) => table.mistake("ready_when", "a requirement beside required = false", "one of the two"),
        None => {}
    }
    service.operations = read_operations(table);
    let built = policies.read(table);
    service.discovery = built.discovery;
    service.locality = policies.locality;
    service.rest_after = policies.rest_after;
    service.deadline = built.deadline;
    service.retry = built.retry;
    service.budget = built.budget;
    service.hedge = built.hedge;
    service.breaker = built.breaker;
    service.limit = policies.limited.then_some(built.limit);
    service.admission = policies.admitting.then_some(built.admission);
    service.outlier = policies.ejecting.then_some(built.outlier);
    service.health =
        policies.probed.then_some(HealthSettings { config: built.health, probe: policies.probe });
    service
}

fn read_operations(table: &mut Table<'_>) -> BTreeMap<Operation, CallOptions> {
    let mut operations = BTreeMap::new();
    for (name, mut part) in table.named_tables("operations") {
        let mut options = CallOptions::new();
        match part.duration("timeout") {
            Some(timeout) if (TIMEOUT.0..=TIMEOUT.1).contains(&timeout) => options = options.timeout(timeout),
            Some(timeout) => part.mistake("timeout", format_args!("{timeout:?}"), "1ms to 1day"),
            None => {}
        }
        match part.count("max_attempts") {
            Some(attempts @ 1..=20) => options = options.max_attempts(attempts),
            Some(attempts) => part.mistake("max_attempts", attempts, "1 to 20"),
            None => {}
        }
        if let Some(idempotent) = part.flag("idempotent") {
            options = options.idempotent(idempotent);
        }
        if let Some(priority) = part.word("priority", &Priority::ALL) {
            options = options.priority(priority);
        }
        table.absorb(part);
        if is_pattern(name) && !name.ends_with('*') {
            operations.insert(Operation::named(name), options);
        } else if !table.is_described() {
            table.add(Mistake::new(
                path_of("operations", name),
                "an invalid name",
                "1 to 128 bytes without *",
            ));
        }
    }
    operations
}

const TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(86_400));

/// Present, it allows what it says and nothing else, even if it says nothing.
fn read_allow(table: &mut Table<'_>) -> Option<AllowList> {
    let present = table.has("allow");
    let mut list = AllowList::new();
    for (caller, mut allowed) in table.named_tables("allow") {
        let operations = allowed.texts("operations");
        if operations.as_ref().is_none_or(|operations| operations.is_empty()) && !allowed.is_wrong() {
            allowed.mistake("operations", "nothing", "at least one operation, \"*\" for any");
        }
        for (place, text) in operations.into_iter().flatten() {
            if is_pattern(text) {
                list = list.allow(caller, [text]);
            } else {
                allowed.add(Mistake::new(format!("operations[{place}]"), format_args!("{text:?}"), PATTERN));
            }
        }
        table.absorb(allowed);
        if !is_pattern(caller) {
            table.add(Mistake::new(path_of("allow", caller), "an invalid name", PATTERN));
        }
    }
    present.then_some(list)
}

const PATTERN: &str = "1 to 128 bytes, with * at most at the end";

fn is_pattern(text: &str) -> bool {
    let start = text.strip_suffix('*').unwrap_or(text);
    !text.is_empty() && text.len() <= 128 && !start.contains('*')
}

#[cfg(test)]
mod tests {
    use tower_mesh_breaker::outlier::{Dialect, OutlierConfig};
    use tower_mesh_breaker::{OpenDelay, Origins};
    use tower_mesh_core::backoff::Jitter;
    use tower_mesh_core::classify::Origin;
    use tower_mesh_discovery::{Algorithm, DiscoveryConfig};
    use tower_mesh_retry::GrowthKind;

    use super::*;
    use crate::config::ProbeSettings;

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
            "services.users.budget.active_ratio",
            "services.users.budget.max_tokens",
            "services.users.budget.token_ratio",
            "services.users.hedge.max_hedges",
            "services.orders.endpoints",
            "services.orders.breaker.window_calls",
            "services.\"no name\"",
            "services.lost.resolver",
            "services.both.resolver",
            "services.filed.file",
        ] {
            assert!(fields.contains(&field), "{field} not in {fields:?}");
        }
        assert_eq!(fields.len(), 18, "each once: {mistakes:?}");
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
            [services.b.breaker]
            open_delay = "as-asked"
            ramp = "20s"
            consecutive_origins = ["remote"]
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
        assert_eq!((a.breaker.open_delay(), a.breaker.ramp()), (OpenDelay::Growing, Duration::ZERO));
        assert_eq!((b.breaker.open_delay(), b.breaker.ramp()), (OpenDelay::AsAsked, Duration::from_secs(20)));
        assert_eq!(b.breaker.consecutive_origins(), Origins::of([Origin::Remote]));
        assert_eq!(
            wrong("[services.a]\nresolver = \"r\"\n[services.a.breaker]\nfailure_origins = [\"moon\"]"),
            [("services.a.breaker.failure_origins".to_owned(), "\"moon\"".to_owned())]
        );
        assert!(a.health.is_none() && !b.required);
        assert_eq!((a.hedge.max_hedges(), b.hedge.max_hedges()), (0, 1));
        assert_eq!(b.hedge.percentile(), Some(0.95));
        let health = b.health.as_ref().unwrap();
        assert_eq!(
            (health.probe.clone(), health.config.interval()),
            (Some(ProbeSettings::get("/healthz".into())), Duration::from_millis(250))
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
    fn every_knob_of_balancing_is_reached() {
        let config = Config::from_toml(
            r#"
            [services.a]
            resolver = "r"
            [services.a.discovery]
            algorithm = "ring_hash"
            active_request_bias = 2
            hash_balance_factor = 150
            ring_size = 64
            subset_size = 20
            overprovisioning = 200
            panic_threshold = 0
            slow_start_window = "30s"
            slow_start_aggression = 1.5
            slow_start_min_weight = 0.2
            locality = "zone-a"
            rest_after = "10m"
            "#,
        )
        .unwrap();
        let expected = DiscoveryConfig::builder()
            .algorithm(Algorithm::RingHash)
            .active_request_bias(2.0)
            .hash_balance_factor(150)
            .ring_size(64)
            .subset_size(20)
            .overprovisioning(200)
            .panic_threshold(0)
            .slow_start_window(Duration::from_secs(30))
            .slow_start_aggression(1.5)
            .slow_start_min_weight(0.2)
            .build()
            .unwrap();
        let service = &config.services["a"];
        assert_eq!((service.discovery, service.locality.as_deref()), (expected, Some("zone-a")));
        assert_eq!(service.rest_after, Some(Duration::from_secs(600)));
        for (name, algorithm) in Algorithm::ALL {
            let text =
                format!("[services.a]\nresolver = \"r\"\n[services.a.discovery]\nalgorithm = \"{name}\"");
            assert_eq!(Config::from_toml(&text).unwrap().services["a"].discovery.algorithm(), algorithm);
        }
        let mistakes = wrong(
            "[services.a]\nresolver = \"r\"\n[services.a.discovery]\nalgorithm = \"best\"\nlocality = \"a b\"\nring_size = 0\nrest_after = \"1ms\"",
        );
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
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
