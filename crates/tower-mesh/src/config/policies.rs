//! The tables of a service that are layers' configurations: read onto builders, defaults of the file first, and then built.

use std::sync::Arc;
use std::time::Duration;

use tower_mesh_admission::{
    LimitAlgorithm, LimitConfig, LimitConfigBuilder, SuccessRateConfig, SuccessRateConfigBuilder,
};
use tower_mesh_breaker::outlier::{Dialect, OutlierConfig, OutlierConfigBuilder};
use tower_mesh_breaker::{BreakerConfig, BreakerConfigBuilder, OpenDelay, Origins, WindowKind};
use tower_mesh_core::backoff::Jitter;
use tower_mesh_core::classify::Origin;
use tower_mesh_discovery::{Algorithm, DiscoveryConfig, DiscoveryConfigBuilder};
use tower_mesh_health::{HealthConfig, HealthConfigBuilder, Initial};
use tower_mesh_retry::{
    BudgetConfig, BudgetConfigBuilder, DeadlineConfig, DeadlineConfigBuilder, GrowthKind, HedgeConfig,
    HedgeConfigBuilder, RetryConfig, RetryConfigBuilder,
};

use super::ServiceConfig;
use super::probe::ProbeSettings;
use super::read::Table;
use super::tree::ADDRESS;
/// The tables of a service under construction.
#[derive(Clone)]
pub(super) struct Policies {
    pub(super) discovery: DiscoveryConfigBuilder,
    pub(super) locality: Option<Arc<str>>,
    pub(super) rest_after: Option<Duration>,
    pub(super) deadline: DeadlineConfigBuilder,
    pub(super) retry: RetryConfigBuilder,
    pub(super) budget: BudgetConfigBuilder,
    pub(super) hedge: HedgeConfigBuilder,
    pub(super) hedged: bool,
    pub(super) breaker: BreakerConfigBuilder,
    pub(super) limit: LimitConfigBuilder,
    pub(super) limited: bool,
    pub(super) admission: SuccessRateConfigBuilder,
    pub(super) admitting: bool,
    pub(super) outlier: OutlierConfigBuilder,
    pub(super) ejecting: bool,
    pub(super) health: HealthConfigBuilder,
    pub(super) probe: Option<ProbeSettings>,
    pub(super) probed: bool,
}

/// The same, checked.
pub(super) struct Built {
    pub(super) discovery: DiscoveryConfig,
    pub(super) deadline: DeadlineConfig,
    pub(super) retry: RetryConfig,
    pub(super) budget: BudgetConfig,
    pub(super) hedge: HedgeConfig,
    pub(super) breaker: BreakerConfig,
    pub(super) limit: LimitConfig,
    pub(super) admission: SuccessRateConfig,
    pub(super) outlier: OutlierConfig,
    pub(super) health: HealthConfig,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            discovery: DiscoveryConfig::builder(),
            locality: None,
            rest_after: None,
            deadline: DeadlineConfig::builder(),
            retry: RetryConfig::builder(),
            budget: BudgetConfig::builder(),
            hedge: ServiceConfig::hedge_builder(),
            hedged: false,
            breaker: ServiceConfig::breaker_builder(),
            limit: LimitConfig::builder(),
            limited: false,
            admission: SuccessRateConfig::builder(),
            admitting: false,
            outlier: OutlierConfig::builder(),
            ejecting: false,
            health: HealthConfig::builder(),
            probe: None,
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

#[cfg(any(feature = "dns", feature = "etcd"))]
pub(super) use set;

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
    pub(super) fn read(&mut self, table: &mut Table<'_>) -> Built {
        let mut part = table.table("discovery");
        set!(self.discovery, part, ready_timeout: duration, latency_decay: duration, failure_penalty: duration,
            stalled_after: duration, active_request_bias: number, hash_balance_factor: count,
            overprovisioning: count, panic_threshold: count, slow_start_window: duration,
            slow_start_aggression: number, slow_start_min_weight: number,
            merge_window: duration, max_stale: duration, removal_grace: duration, empty_grace: duration,
            keep_healthy: flag, max_removal_percent: count, removal_interval: duration);
        if let Some(max) = part.count("max_endpoints") {
            self.discovery = self.discovery.max_endpoints(max as usize);
        }
        if let Some(size) = part.count("ring_size") {
            self.discovery = self.discovery.ring_size(size as usize);
        }
        if let Some(size) = part.count("subset_size") {
            self.discovery = self.discovery.subset_size(size as usize);
        }
        if let Some(algorithm) = part.word("algorithm", &Algorithm::ALL) {
            self.discovery = self.discovery.algorithm(algorithm);
        }
        if let Some(locality) = part.text("locality") {
            match ServiceConfig::is_locality(locality) {
                true => self.locality = Some(locality.into()),
                false => part.mistake("locality", format_args!("{} bytes", locality.len()), ADDRESS),
            }
        }
        if let Some(after) = part.duration("rest_after") {
            match ServiceConfig::rest_mistake(after) {
                None => self.rest_after = Some(after),
                Some(mistake) => part.add(mistake),
            }
        }
        let discovery = checked!(part, self.discovery, Policies::default().discovery);
        table.absorb(part);

        let mut part = table.table("deadline");
        set!(self.deadline, part, timeout: duration);
        let deadline = checked!(part, self.deadline, Policies::default().deadline);
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
        let retry = checked!(part, self.retry, Policies::default().retry);
        table.absorb(part);

        let mut part = table.table("budget");
        set!(self.budget, part, ratio: number, min_per_second: count, ttl: duration, min_concurrency: count,
            active_ratio: number, max_tokens: count, token_ratio: number);
        let budget = checked!(part, self.budget, Policies::default().budget);
        table.absorb(part);

        if table.has("hedge") && !std::mem::replace(&mut self.hedged, true) {
            self.hedge = HedgeConfig::builder();
        }
        let mut part = table.table("hedge");
        set!(self.hedge, part, max_hedges: count, delay: duration, percentile: number, ready_timeout: duration);
        let hedge = checked!(part, self.hedge, Policies::default().hedge);
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

        self.limited |= table.has("limit");
        let mut part = table.table("limit");
        set!(self.limit, part, initial: count, min: count, max: count, timeout: duration, window: duration,
            tolerance: number, max_waiting: count, max_wait: duration, normal_share: number, sheddable_share: number);
        if let Some(algorithm) = part.word("algorithm", &LimitAlgorithm::ALL) {
            self.limit = self.limit.algorithm(algorithm);
        }
        let limit = checked!(part, self.limit, Policies::default().limit);
        table.absorb(part);

        self.admitting |= table.has("admission");
        let mut part = table.table("admission");
        set!(self.admission, part, threshold: number, aggression: number, max_rejection: number, window: duration,
            min_calls: count);
        let admission = checked!(part, self.admission, Policies::default().admission);
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
        let outlier = checked!(part, self.outlier, Policies::default().outlier);
        table.absorb(part);

        self.probed |= table.has("health");
        let mut part = table.table("health");
        set!(self.health, part, interval: duration, unhealthy_interval: duration, healthy_edge_interval: duration,
            unhealthy_edge_interval: duration, no_traffic_interval: duration, unknown_interval: duration,
            timeout: duration, rise: count, fall: count, traffic_threshold: number, traffic_min_calls: count, jitter: number, initial_spread: duration);
        if let Some(max) = part.count("max_concurrent") {
            self.health = self.health.max_concurrent(max as usize);
        }
        if let Some(initial) = part.word("initial", &Initial::ALL) {
            self.health = self.health.initial(initial);
        }
        self.probe = ProbeSettings::read(&mut part, self.probe.take());
        let health = checked!(part, self.health, Policies::default().health);
        table.absorb(part);

        Built { discovery, deadline, retry, budget, hedge, breaker, limit, admission, outlier, health }
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

/// A list of origins of failures.
fn origins(table: &mut Table<'_>, key: &'static str) -> Option<Origins> {
    let mut origins = Vec::new();
    for (_, name) in table.texts(key)? {
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
