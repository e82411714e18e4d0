//! The stacks of ours.

use std::time::Duration;

use tower::{BoxError, ServiceBuilder};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::replay::Idempotent;
use tower_mesh_core::{Endpoint, EndpointHandle, ServiceName};
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
use tower_mesh_retry::{DeadlineConfig, DeadlineLayer, RetryConfig, RetryLayer};
use tower_service::Service;

use crate::inner::{Echo, Request};

/// A stack under measurement.
pub(crate) trait Stack:
    Service<Request, Response = u64, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

impl<S> Stack for S where
    S: Service<Request, Response = u64, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

fn discovery(endpoints: usize) -> DiscoveryLayer {
    let list = (0..endpoints).map(|i| Endpoint::new(format!("10.0.0.1:{i}")).expect("an address"));
    let list = FixedList::new(list).expect("no two alike");
    let name: ServiceName = "bench".parse().expect("a name");
    DiscoveryLayer::spawn(&list, name)
}

/// Discovery and balancing alone. Must be called inside a runtime: the driver is spawned.
pub(crate) fn balance(endpoints: usize) -> impl Stack {
    ServiceBuilder::new().layer(discovery(endpoints)).service(Echo)
}

/// With a circuit around each endpoint.
pub(crate) fn balance_and_breaker(endpoints: usize) -> impl Stack {
    let breaker = BreakerLayer::new(BreakerConfig::default(), ByResult);
    ServiceBuilder::new()
        .layer(discovery(endpoints).per_endpoint(move |endpoint: &EndpointHandle| breaker.watching(endpoint)))
        .service(Echo)
}

/// The whole stack: deadline > retry with an attempt timeout > balance > a circuit around each endpoint.
pub(crate) fn whole(endpoints: usize) -> impl Stack {
    let retry = RetryConfig::builder().attempt_timeout(Duration::from_secs(5)).build().expect("a timeout");
    let breaker = BreakerLayer::new(BreakerConfig::default(), ByResult);
    ServiceBuilder::new()
        .layer(DeadlineLayer::new(DeadlineConfig::default()))
        .layer(RetryLayer::new(retry, ByResult).replay(Idempotent))
        .layer(discovery(endpoints).per_endpoint(move |endpoint: &EndpointHandle| breaker.watching(endpoint)))
        .service(Echo)
}
