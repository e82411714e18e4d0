//! One layer alone: a circuit in a stack that is already there, beside tower's own layers. No mesh, no discovery.
//!
//! `cargo run --example one_layer`

use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_mesh::breaker::{BreakerConfig, BreakerLayer, CircuitOpen};
use tower_mesh::core::error::find;
use tower_mesh::http::Classifier;
use tower_mesh_examples::{Backend, Mood};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backend = Backend::start().await?;
    let url = format!("http://{}/", backend.endpoint().address());
    let config =
        BreakerConfig::builder().consecutive_failures(3).reset_timeout(Duration::from_millis(300)).build()?;
    let breaker = BreakerLayer::new(config, Classifier::default());
    breaker.on_transition(|event| {
        println!("  the circuit: {:?} → {:?}", event.transition.from, event.transition.to);
    });
    let mut client = ServiceBuilder::new()
        .map_err(BoxError::from)
        .concurrency_limit(10)
        .layer(breaker.clone())
        .timeout(Duration::from_secs(1))
        .service(Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>());

    let mut refused = 0;
    for (what, mood, calls) in [("well", Mood::Well, 3), ("failing", Mood::Failing, 6)] {
        backend.set_mood(mood);
        println!("the server is {what}");
        for _ in 0..calls {
            match client.ready().await?.call(Request::get(&url).body(Empty::new())?).await {
                Ok(response) => {
                    println!("  {}", response.status());
                    response.into_body().collect().await?;
                }
                Err(error) => {
                    let open = find::<CircuitOpen>(&*error).ok_or("another error")?;
                    println!("  refused, nothing was sent: again in {:?}", open.retry_after());
                    refused += 1;
                }
            }
        }
    }
    backend.set_mood(Mood::Well);
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("well again");
    for _ in 0..6 {
        let response = client.ready().await?.call(Request::get(&url).body(Empty::new())?).await?;
        response.into_body().collect().await?;
    }
    println!("  {:?}", breaker.circuit().state());
    if refused == 3 { Ok(()) } else { Err(format!("{refused} were refused, not 3").into()) }
}
