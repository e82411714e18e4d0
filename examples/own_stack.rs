//! The layers put together by hand, without a mesh: deadline, retry, endpoints, and a circuit around each. What needs work in the background is driven by the program.
//!
//! `cargo run --example own_stack`

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_mesh::ServiceBuilderExt;
use tower_mesh::breaker::{BreakerConfig, BreakerLayer};
use tower_mesh::core::EndpointHandle;
use tower_mesh::discovery::{DiscoveryLayer, FixedList};
use tower_mesh::http::{Authority, Classifier};
use tower_mesh::retry::{DeadlineConfig, RetryConfig};
use tower_mesh_examples::{Backend, Mood};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backends = [Backend::start().await?, Backend::start().await?, Backend::start().await?];
    let list = FixedList::new(backends.iter().map(Backend::endpoint))?;

    // Nothing is spawned behind our back: the driver is ours to run, and ends when it is dropped.
    let (discovery, driver) = DiscoveryLayer::new(&list, "users".parse()?);
    let breakers =
        BreakerLayer::new(BreakerConfig::builder().consecutive_failures(1).build()?, Classifier::default());
    let around_each = breakers.clone();
    let users = ServiceBuilder::new()
        .mesh_deadline(DeadlineConfig::default())
        .mesh_retry(RetryConfig::default(), Classifier::default())
        .layer(discovery.bind(Authority).classify(Classifier::default()).per_endpoint(
            move |endpoint: &EndpointHandle| {
                // A layer of one's own, or of tower, may stand here as well.
                ServiceBuilder::new().layer(around_each.watching(endpoint)).concurrency_limit(100)
            },
        ))
        .service(Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>());

    let calls = async {
        backends[0].set_mood(Mood::Failing);
        let mut well = 0;
        for _ in 0..30 {
            let response = users.clone().oneshot(Request::get("/").body(Empty::new())?).await?;
            well += u32::from(response.status().is_success());
            response.into_body().collect().await?;
        }
        println!("{well}/30 calls succeed though one of three servers fails");
        let open: Vec<_> = breakers.circuits().iter().map(|circuit| circuit.state()).collect();
        println!("circuits: {open:?}");
        if well == 30 { Ok(()) } else { Err(BoxError::from("not all")) }
    };
    tokio::select! {
        done = calls => done,
        _ = driver => Err("the driver ends with the last clone of the stack".into()),
    }
}
