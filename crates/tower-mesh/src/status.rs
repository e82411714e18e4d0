//! What can be read of a mesh: plain values, with reasons.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tower_mesh_breaker::Circuit;
use tower_mesh_breaker::outlier::MemberStatus;
use tower_mesh_core::ewma::Decay;
use tower_mesh_core::{EndpointHandle, EndpointId, Tick};
use tower_mesh_health::EndpointHealth;
use tower_mesh_health::policy::{HealthState, merge, reasons};

use crate::components::ComponentStatus;
use crate::measure::{Calls, LatencyStatus};
use crate::part::Part;
use crate::rates::Rates;
use crate::readiness::{self, ServiceState};

/// How far a mesh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)] // in the order in which they are gone through
pub enum MeshState {
    /// Put together, not started.
    Built,
    /// Services are being resolved. Calls are taken, and wait for that.
    Starting,
    /// Every required service is resolved.
    Running,
    /// No more calls are taken.
    Stopping,
    /// Every task has ended.
    Stopped,
}

impl MeshState {
    pub(crate) fn from_u8(state: u8) -> Self {
        [Self::Built, Self::Starting, Self::Running, Self::Stopping, Self::Stopped][usize::from(state)]
    }
}

impl fmt::Display for MeshState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Built => "built",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        })
    }
}

/// A mesh at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MeshStatus {
    /// The version of this form: it grows when a field goes or means something else; new fields come without.
    pub schema: u32,
    /// How far it is.
    pub state: MeshState,
    /// Its configuration.
    pub config: ConfigStatus,
    /// The background work of its services, from when it was started.
    pub components: Vec<ComponentStatus>,
    /// Its services, by name.
    pub services: Vec<ServiceStatus>,
}

/// What became of other configurations for a mesh that runs.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ConfigStatus {
    /// The file that is followed, if one is.
    pub followed: Option<String>,
    /// Reloads that were applied.
    pub reloads: u64,
    /// Reloads that were refused: the old configuration stayed.
    pub refused: u64,
    /// What was wrong with the last one, if it was refused.
    pub last_error: Option<String>,
}

/// A service at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// How it is as a whole.
    pub state: ServiceState,
    /// Why it is not healthy.
    pub why: Vec<String>,
    /// Where its resolution stands: `not-driven`, `resolving`, `current`, `stale`, `failed`, `not-found` or `expired`.
    pub discovery: String,
    /// Milliseconds since its source last answered.
    pub discovery_age_ms: Option<u64>,
    /// How often its source has failed.
    pub discovery_errors: u64,
    /// What its source last failed with.
    pub discovery_error: Option<String>,
    /// Calls that were refused because their caller may not make them.
    pub not_allowed: u64,
    /// How many of the endpoints the source no longer names, but may not go yet.
    pub absent: usize,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// Its retries.
    pub retry: RetryStatus,
    /// How many attempts it made lately, and how many failed.
    pub rates: Rates,
    /// How long its calls take; none unless [calls are measured](crate::MeshBuilder::measure_calls), or without any.
    pub latency: Option<LatencyStatus>,
    /// How many calls may be under way; none if there is no limit.
    pub limit: Option<LimitStatus>,
    /// What is refused for want of success; none if nothing is.
    pub admission: Option<AdmissionStatus>,
}

/// The limit of a service.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct LimitStatus {
    /// The limit now.
    pub limit: u32,
    /// Calls under way.
    pub in_flight: u32,
    /// Calls that wait for one of those to end.
    pub waiting: u32,
    /// Calls of sheddable priority refused so far.
    pub refused_sheddable: u64,
    /// Calls of normal priority refused so far.
    pub refused_normal: u64,
    /// Calls of critical priority refused so far.
    pub refused_critical: u64,
}

/// Refusals by the success rate of a service.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct AdmissionStatus {
    /// The chance that a normal call is refused now, from 0 to 1.
    pub rejection: f64,
    /// Calls in the window.
    pub total: u64,
    /// Those of them that succeeded.
    pub succeeded: u64,
    /// Calls refused so far.
    pub refused: u64,
}

/// The retries of a service.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct RetryStatus {
    /// Retries that the budget can pay for now.
    pub balance: u64,
    /// Retries under way.
    pub in_flight: u32,
    /// Retries allowed so far.
    pub granted: u64,
    /// Retries refused so far because the budget was spent.
    pub denied: u64,
    /// Retries refused so far by the failure throttle.
    pub throttled: u64,
    /// What the failure throttle has left, in thousandths of a token; none if it is off.
    pub milli_tokens: Option<u32>,
}

/// An endpoint at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Who it is.
    pub id: String,
    /// Where it is.
    pub address: String,
    /// The one verdict of all that is known: `unknown`, `healthy`, `degraded`, `unhealthy` or `draining`. See [`merge`].
    pub state: String,
    /// All that is known, in words: its probes, and what speaks against it.
    pub why: Vec<String>,
    /// Its share of traffic relative to its peers, as last announced.
    pub weight: u32,
    /// Its failover level.
    pub priority: u32,
    /// Where it stands, if that was announced.
    pub locality: Option<String>,
    /// Whether ordinary calls go to it.
    pub available: bool,
    /// Why not, and what else is known: the names of [`Reason`](tower_mesh_core::Reason)s.
    pub reasons: Vec<&'static str>,
    /// Its circuit; none while there is no service that was made of a handle: a circuit goes with the last of them.
    pub circuit: Option<CircuitStatus>,
    /// Its place among its peers; none if outliers are not ejected.
    pub outlier: Option<OutlierStatus>,
    /// Its probes; none if it is not probed.
    pub health: Option<HealthStatus>,
    /// Calls under way.
    pub in_flight: u64,
    /// Calls sent to it so far, retries included.
    pub started: u64,
    /// Calls that ended well.
    pub succeeded: u64,
    /// Calls that ended badly.
    pub failed: u64,
    /// Calls that were dropped before their end.
    pub abandoned: u64,
    /// The latency estimate that the balancer goes by, in milliseconds; none without history.
    pub latency_ms: Option<f64>,
}

/// A circuit at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CircuitStatus {
    /// `closed`, `open`, `half-open`, `forced-open`, `disabled` or `metrics-only`.
    pub state: String,
    /// How often it has changed its state.
    pub generation: u64,
    /// What its window holds; of a half-open circuit its trial calls; of an open one what made it open.
    pub total: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Those of them that were slow.
    pub slow: u64,
    /// What opens it.
    pub trips: TripStatus,
    /// The share of slow calls in percent; none while there are too few to tell.
    pub slow_call_rate: Option<f64>,
    /// The share of failed calls in percent; none while there are too few to tell.
    pub failure_rate: Option<f64>,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Calls refused so far.
    pub refused: u64,
    /// Milliseconds until a trial call is wanted, if it is open and a time is set.
    pub next_trial_ms: Option<u64>,
}

/// What opens a circuit, as configured.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct TripStatus {
    /// So many failures in a row; 0: no row does.
    pub consecutive_failures: u32,
    /// This share of failed calls, in percent.
    pub failure_rate: f64,
    /// This share of slow calls, in percent.
    pub slow_call_rate: f64,
    /// A call is slow from so many milliseconds on; none: none is.
    pub slow_call_ms: Option<u64>,
    /// With fewer calls no share is looked at.
    pub min_calls: u32,
    /// Trial calls that decide whether a half-open circuit closes: [`CircuitStatus::total`] of them are back.
    pub half_open_permits: u32,
}

/// An endpoint among its peers at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct OutlierStatus {
    /// Milliseconds until its ejection is over, if it is ejected; it is back with the next sweep after.
    pub ejected_ms: Option<u64>,
    /// How often it has been ejected, less what has been forgotten.
    pub ejections: u32,
}

/// The probes of an endpoint at one moment.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct HealthStatus {
    /// `unknown`, `healthy`, `degraded` or `unhealthy`.
    pub state: String,
    /// The latest probe in words.
    pub last: Option<String>,
    /// Milliseconds since the state is what it is.
    pub since_ms: u64,
    /// Milliseconds since the latest probe ended.
    pub last_ms: Option<u64>,
    /// How long it took, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Probes that passed since the last that failed.
    pub passes: u32,
    /// Probes that failed since the last that passed.
    pub failures: u32,
}

impl MeshStatus {
    /// The [`schema`](Self::schema) that this version makes.
    pub const SCHEMA: u32 = 1;

    pub(crate) fn take<'a>(
        state: MeshState,
        config: ConfigStatus,
        components: Vec<ComponentStatus>,
        parts: impl Iterator<Item = &'a Arc<Part>>,
    ) -> Self {
        let now = Tick::of(tokio::time::Instant::now().into_std());
        Self {
            schema: Self::SCHEMA,
            state,
            config,
            components,
            services: parts.map(|part| service(part, now)).collect(),
        }
    }
}

fn service(part: &Part, now: Tick) -> ServiceStatus {
    let discovery = part.discovery.status();
    let circuits = part.breaker.circuits();
    // By key: of an endpoint that went and came back, the record before it lives on while a call holds it.
    let circuits: HashMap<u32, &Circuit> =
        circuits.iter().filter_map(|circuit| Some((circuit.handle()?.key(), circuit))).collect();
    let health = part.health.as_ref().map(|health| health.status()).unwrap_or_default();
    let health: HashMap<u32, &EndpointHealth> = health.iter().map(|health| (health.key(), health)).collect();
    let members = part.outliers.as_ref().map(|outliers| outliers.status().members).unwrap_or_default();
    let members: HashMap<&EndpointId, &MemberStatus> =
        members.iter().map(|member| (&member.id, member)).collect();
    let decay = Decay::new(part.discovery.config().latency_decay());
    let endpoint = |handle: &EndpointHandle| {
        let (circuit, health) = (circuits.get(&handle.key()), health.get(&handle.key()));
        let outlier = members.get(handle.id()).map(|member| OutlierStatus {
            ejected_ms: member.ejected_until.map(|until| millis(until.since(now))),
            ejections: member.ejections,
        });
        EndpointStatus { outlier, ..endpoint_status(handle, circuit.copied(), health.copied(), decay, now) }
    };
    let budget = part.retry.get_budget().snapshot(now);
    let admission = part.admission.snapshot(now);
    let endpoints: Vec<_> = discovery.endpoints.iter().map(endpoint).collect();
    let (state, why) = readiness::aggregate(discovery.state, discovery.last_error.as_deref(), &endpoints);
    ServiceStatus {
        name: part.name.to_string(),
        state,
        why,
        discovery: kebab(&discovery.state),
        discovery_age_ms: discovery.updated_at.map(|at| millis(now.since(at))),
        discovery_errors: discovery.errors,
        discovery_error: discovery.last_error.map(|error| error.to_string()),
        not_allowed: part.authorization.refused(),
        absent: discovery.absent,
        endpoints,
        rates: part.seen.rates(),
        latency: part.measured.as_ref().and_then(Calls::latency),
        retry: RetryStatus {
            balance: budget.balance,
            in_flight: budget.in_flight,
            granted: budget.granted,
            denied: budget.denied,
            throttled: budget.throttled,
            milli_tokens: budget.milli_tokens,
        },
        limit: admission.limit.map(|limit| LimitStatus {
            limit: limit.limit,
            in_flight: limit.in_flight,
            waiting: limit.waiting,
            refused_sheddable: limit.refused.sheddable,
            refused_normal: limit.refused.normal,
            refused_critical: limit.refused.critical,
        }),
        admission: admission.success_rate.map(|rate| AdmissionStatus {
            rejection: rate.rejection,
            total: rate.total,
            succeeded: rate.succeeded,
            refused: rate.refused,
        }),
    }
}

fn endpoint_status(
    handle: &EndpointHandle,
    circuit: Option<&Circuit>,
    health: Option<&EndpointHealth>,
    decay: Decay,
    now: Tick,
) -> EndpointStatus {
    let (counts, told) = (handle.counts(), handle.endpoint());
    let availability = handle.availability();
    let (state, why) = match health {
        Some(health) => (health.verdict(), health.reasons(now)),
        None => {
            let verdict = merge(HealthState::Unknown, availability, counts.succeeded > 0);
            (verdict, reasons(availability).map(str::to_owned).collect())
        }
    };
    EndpointStatus {
        id: handle.id().to_string(),
        address: told.address().to_owned(),
        weight: told.weight().get(),
        priority: told.priority(),
        locality: told.locality().map(ToString::to_string),
        state: state.to_string(),
        why,
        available: handle.is_pickable(now),
        reasons: availability.reasons().map(|reason| reason.as_str()).collect(),
        circuit: circuit.map(|circuit| {
            let (snapshot, config) = (circuit.snapshot(now), circuit.config());
            CircuitStatus {
                state: kebab(&snapshot.state),
                generation: snapshot.generation,
                total: snapshot.counts.total,
                failed: snapshot.counts.failed,
                slow: snapshot.counts.slow,
                trips: TripStatus {
                    consecutive_failures: config.consecutive_failures(),
                    failure_rate: config.failure_threshold().as_f64() * 100.0,
                    slow_call_rate: config.slow_call_threshold().as_f64() * 100.0,
                    slow_call_ms: config.slow_call_duration().map(millis),
                    min_calls: config.min_calls(),
                    half_open_permits: config.half_open_permits(),
                },
                slow_call_rate: snapshot.slow_call_rate(),
                failure_rate: snapshot.failure_rate(),
                consecutive_failures: snapshot.consecutive_failures,
                refused: snapshot.refused,
                next_trial_ms: snapshot.next_trial.map(|at| millis(at.since(now))),
            }
        }),
        outlier: None,
        health: health.map(|health| HealthStatus {
            state: kebab(&health.state()),
            last: health.last(),
            since_ms: millis(now.since(health.since())),
            last_ms: health.last_checked().map(|at| millis(now.since(at))),
            rtt_ms: health.last_rtt().map(|rtt| rtt.as_secs_f64() * 1000.0),
            passes: health.consecutive_passes(),
            failures: health.consecutive_failures(),
        }),
        in_flight: counts.in_flight(),
        started: counts.started,
        succeeded: counts.succeeded,
        failed: counts.failed,
        abandoned: counts.abandoned,
        latency_ms: handle.latency(now, decay).map(|latency| latency.as_secs_f64() * 1000.0),
    }
}

/// The name of a state as status shows it: `HalfOpen` is `half-open`.
pub(crate) fn kebab(state: &impl fmt::Debug) -> String {
    let mut text = String::new();
    for (i, c) in format!("{state:?}").chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
