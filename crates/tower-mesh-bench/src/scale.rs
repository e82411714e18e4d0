//! A large mesh: what it takes to build, start, look at, change and end one of many services, and what it keeps in memory.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;
use tower_mesh::config::ServiceConfig;
use tower_mesh::core::{Endpoint, EndpointHandle, ServiceName};
use tower_mesh::{Config, Mesh};

use crate::ALLOCATOR;
use crate::inner::Echo;

/// One line of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) build_ms: f64,
    /// A client's service made for each.
    pub(crate) connect_ms: f64,
    /// Until all are resolved.
    pub(crate) start_ms: f64,
    pub(crate) status_ms: f64,
    /// The same configuration again: everything is compared, nothing changes.
    pub(crate) reload_same_ms: f64,
    /// One endpoint of one service weighs more.
    pub(crate) reload_one_ms: f64,
    /// Every service gets another breaker.
    pub(crate) reload_all_ms: f64,
    pub(crate) shutdown_ms: f64,
    /// All of it, by endpoint.
    pub(crate) bytes_per_endpoint: usize,
}

/// Measures meshes of 10 000 endpoints: in one service, and in a thousand.
pub(crate) async fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for services in [1, 1000] {
        rows.push(row(services, 10_000).await);
    }
    rows
}

async fn row(services: usize, endpoints: usize) -> Row {
    let before = held();
    let first = config(services, endpoints, |service| service, 1);
    let (build_ms, mesh) = timed(|| Mesh::builder().config(first.clone()).build().expect("a configuration"));
    let (connect_ms, _clients) = timed(|| {
        let connect = |name| mesh.service(name).expect("it is there").connect(|_: &EndpointHandle| Echo);
        names(services).iter().map(|name| connect(name.as_str())).collect::<Vec<_>>()
    });
    let started = tokio::time::Instant::now();
    mesh.start().await.expect("lists are there at once");
    while known(&mesh) < endpoints {
        tokio::task::yield_now().await;
    }
    let start_ms = ms(started.elapsed());
    let bytes_per_endpoint = held().saturating_sub(before) / endpoints;
    let (status_ms, _) = timed(|| mesh.status());
    let reload = |config: Config| timed(|| mesh.reload(config).expect("nothing that cannot change")).0;
    let reload_same_ms = reload(first);
    let reload_one_ms = reload(config(services, endpoints, |service| service, 2));
    let other = tower_mesh::breaker::BreakerConfig::builder().min_calls(7).build().expect("in range");
    let reload_all_ms = reload(config(services, endpoints, move |service| service.breaker(other), 2));
    let ended = tokio::time::Instant::now();
    mesh.shutdown(Duration::from_secs(5)).await;
    let shutdown_ms = ms(ended.elapsed());
    Row {
        services,
        endpoints,
        build_ms,
        connect_ms,
        start_ms,
        status_ms,
        reload_same_ms,
        reload_one_ms,
        reload_all_ms,
        shutdown_ms,
        bytes_per_endpoint,
    }
}

pub(crate) fn known(mesh: &Mesh) -> usize {
    mesh.status().services.iter().map(|service| service.endpoints.len()).sum()
}

pub(crate) fn names(services: usize) -> Vec<ServiceName> {
    (0..services).map(|n| format!("service-{n}").parse().expect("a name")).collect()
}

pub(crate) fn config(
    services: usize,
    endpoints: usize,
    change: impl Fn(ServiceConfig) -> ServiceConfig,
    weight_of_first: u32,
) -> Config {
    let each = endpoints / services;
    let names = names(services).into_iter().enumerate();
    names.fold(Config::new(), |config, (n, name)| {
        let endpoints = (0..each).map(|i| {
            let number = n * each + i;
            let address = format!("10.{}.{}.{}:80", number >> 16, number >> 8 & 255, number & 255);
            let endpoint = Endpoint::new(address).expect("an address");
            let weight = if number == 0 { weight_of_first } else { 1 };
            endpoint.with_weight(NonZeroU32::new(weight).expect("over 0"))
        });
        config.service(name, change(ServiceConfig::with_endpoints(endpoints)))
    })
}

fn timed<T>(f: impl FnOnce() -> T) -> (f64, T) {
    let started = tokio::time::Instant::now();
    let result = f();
    (ms(started.elapsed()), result)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}
