//! Each layer, and all of them together, around the kit's inner service.

use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder};
use tower_mesh_admission::{AdmissionConfig, AdmissionLayer, LimitConfig, SuccessRateConfig};
use tower_mesh_breaker::outlier::{OutlierConfig, Outliers};
use tower_mesh_breaker::{Breaker, BreakerConfig, BreakerLayer, Circuit};
use tower_mesh_core::backoff::Jitter;
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::replay::Idempotent;
use tower_mesh_core::{BoxError, EndpointHandle};
use tower_mesh_discovery::{Balance, DiscoveryLayer, FixedList};
use tower_mesh_health::{HealthConfig, HealthLayer};
use tower_mesh_retry::{DeadlineConfig, DeadlineLayer, HedgeConfig, HedgeLayer, RetryConfig, RetryLayer};
use tower_mesh_test::{Fleet, Inner};

use crate::seconds;

/// A request that is no HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query(pub u32);

/// A layer around an [`Inner`], whatever its type.
pub type Subject = BoxCloneSyncService<Query, u64, BoxError>;

/// Puts one layer, or several, around the inner service.
pub type Wrap = fn(&Inner<Query, u64>) -> Subject;

/// Every layer, alone and together. To be applied inside a tokio runtime.
pub const ALL: [(&str, Wrap); 12] = [
    ("deadline", |inner| Subject::new(deadline().layer(inner.clone()))),
    ("retry", |inner| Subject::new(retry().layer(inner.clone()))),
    ("hedge", |inner| Subject::new(hedge().layer(inner.clone()))),
    ("admission alone", |inner| Subject::new(admission().layer(inner.clone()))),
    ("admission watching", |inner| {
        let endpoint = EndpointHandle::new("a:1".parse().expect("an address"));
        Subject::new(admission().watching(&endpoint).layer(inner.clone()))
    }),
    ("breaker alone", |inner| Subject::new(breaker().layer(inner.clone()))),
    ("breaker watching", |inner| {
        let endpoint = EndpointHandle::new("a:1".parse().expect("an address"));
        Subject::new(breaker().watching(&endpoint).layer(inner.clone()))
    }),
    ("breaker keyed", |inner| Subject::new(breaker().keyed(|query: &Query| query.0).layer(inner.clone()))),
    ("outlier", |inner| {
        let endpoint = EndpointHandle::new("a:1".parse().expect("an address"));
        Subject::new(Outliers::new(OutlierConfig::default()).0.watching(&endpoint).layer(inner.clone()))
    }),
    ("health", |inner| {
        let endpoint = EndpointHandle::new("a:1".parse().expect("an address"));
        Subject::new(health().guarding(&endpoint).layer(inner.clone()))
    }),
    ("discovery", |inner| Subject::new(discovery().layer(inner.clone()))),
    ("composed", |inner| composed(inner, &breaker())),
];

/// Ends calls after ten seconds.
pub fn deadline() -> DeadlineLayer {
    let config = DeadlineConfig::builder().timeout(seconds(10)).build();
    DeadlineLayer::new(config.expect("in range"))
}

/// Three attempts, with waits of exactly one and two seconds.
pub fn retry() -> RetryLayer<ByResult, Idempotent> {
    let config = RetryConfig::builder().jitter(Jitter::None).build();
    RetryLayer::new(config.expect("in range"), ByResult).replay(Idempotent)
}

/// Another attempt beside the first after five seconds.
pub fn hedge() -> HedgeLayer<ByResult, Idempotent> {
    let config = HedgeConfig::builder().delay(seconds(5)).build();
    HedgeLayer::new(config.expect("in range"), ByResult).replay(Idempotent)
}

/// A limit that adapts, and refusals by success rate.
pub fn admission() -> AdmissionLayer<ByResult> {
    let config = AdmissionConfig::new().limit(LimitConfig::default());
    AdmissionLayer::new(config.success_rate(SuccessRateConfig::default()), ByResult)
}

/// Opens after five failures in a row.
pub fn breaker() -> BreakerLayer<ByResult> {
    BreakerLayer::new(BreakerConfig::default(), ByResult)
}

/// Checks that nobody drives: every endpoint is unknown, and may be used.
pub fn health() -> HealthLayer {
    HealthLayer::new(HealthConfig::default(), Unasked).0
}

struct Unasked;

impl Probe for Unasked {
    async fn probe(&self, _endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        Ok(Probed::Healthy)
    }
}

/// One endpoint, every call to which goes to the client as it is. Its driver is spawned.
pub fn discovery() -> DiscoveryLayer {
    let list = FixedList::new(["a:1".parse().expect("an address")]).expect("one is no duplicate");
    DiscoveryLayer::spawn(&list, "users".parse().expect("a name"))
}

/// All of them in their order: deadline, retry, discovery, and around the endpoint a circuit of `breaker`'s.
pub fn composed(inner: &Inner<Query, u64>, breaker: &BreakerLayer<ByResult>) -> Subject {
    let breaker = breaker.clone();
    let service = ServiceBuilder::new()
        .layer(deadline())
        .layer(retry())
        .layer(discovery().per_endpoint(move |endpoint: &EndpointHandle| breaker.watching(endpoint)))
        .service(inner.clone());
    Subject::new(service)
}

/// A balancer over `fleet`, with a circuit of `breaker`'s around each endpoint. Its driver is spawned.
pub fn balance(
    fleet: &Fleet<Query>,
    breaker: &BreakerLayer<ByResult>,
) -> Balance<Breaker<Inner<Query, String>, ByResult>, ByResult> {
    let list = FixedList::new(fleet.endpoints()).expect("a fleet has each address once");
    let (fleet, breaker) = (fleet.clone(), breaker.clone());
    DiscoveryLayer::spawn(&list, "users".parse().expect("a name"))
        .per_endpoint(move |endpoint: &EndpointHandle| breaker.watching(endpoint))
        .connect(move |endpoint: &EndpointHandle| fleet.connect(endpoint))
}

/// The circuit that `breaker` keeps for the endpoint at `address`.
///
/// # Panics
/// When it keeps none.
pub fn circuit_of(breaker: &BreakerLayer<ByResult>, address: &str) -> Circuit {
    let of = |circuit: &Circuit| circuit.endpoint().is_some_and(|id| id.as_str() == address);
    breaker.circuits().into_iter().find(of).expect("an endpoint of this address is watched")
}
