//! Calls go on over real backends while etcd is killed and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::ServiceExt as _;
use tower_mesh_discovery::{Algorithm, DiscoveryConfig, DiscoveryLayer, DiscoveryState};
use tower_mesh_http::{Authority, Classifier};

use crate::server::Etcd;

/// A real HTTP server, which says its name.
async fn backend(name: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = Router::new().route("/", get(move || async move { name }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    for _ in 0..800 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_etcd_is_killed_and_started_again() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let [one, two, three] = [backend("one").await, backend("two").await, backend("three").await];
    let mut keys = etcd.client().await;
    for (key, address) in [("1", &one), ("2", &two)] {
        keys.put(format!("/services/users/{key}"), format!("{address:?}"), None).await.unwrap();
    }
    // By latency, one that happened to be slow the first time would get no call for long.
    let config = DiscoveryConfig::builder().algorithm(Algorithm::RoundRobin).build().unwrap();
    let resolver = etcd.resolver(|config| config);
    let (discovery, driver) = DiscoveryLayer::with_config(&resolver, "users".parse().unwrap(), config);
    let driver = tokio::spawn(driver);
    let discovery = discovery.bind(Authority).classify(Classifier::default());
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let users = tower::Layer::layer(&discovery, client);

    let stop = Arc::new(AtomicBool::new(false));
    let calling = {
        let (users, stop) = (users.clone(), stop.clone());
        tokio::spawn(async move {
            let (mut calls, mut failed, mut from_three) = (0_u32, Vec::new(), 0_u32);
            while !stop.load(Ordering::Relaxed) {
                let request = Request::get("http://users/").body(Empty::new()).unwrap();
                calls += 1;
                match users.clone().oneshot(request).await {
                    Ok(response) => {
                        let body = response.into_body().collect().await.unwrap().to_bytes();
                        from_three += u32::from(body == "three");
                    }
                    Err(error) => failed.push(error.to_string()),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (calls, failed, from_three)
        })
    };
    let state = || users.status().state;
    eventually("resolved", || state() == DiscoveryState::Current).await;
    let records: Vec<_> = users.status().endpoints.iter().map(|endpoint| endpoint.key()).collect();
    eventually("called", || users.status().endpoints.iter().all(|e| e.counts().succeeded > 20)).await;

    etcd.kill();
    eventually("stale", || state() == DiscoveryState::Stale).await;
    assert_eq!(users.status().endpoints.len(), 2, "the last good set stays");
    assert!(users.status().last_error.is_some());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(etcd.run().await);
    eventually("current", || state() == DiscoveryState::Current).await;
    let after: Vec<_> = users.status().endpoints.iter().map(|endpoint| endpoint.key()).collect();
    assert_eq!(records, after, "what was learned of endpoints that are still there is kept");

    let mut keys = etcd.client().await;
    keys.put("/services/users/3", format!("{three:?}"), None).await.unwrap();
    keys.delete("/services/users/1", None).await.unwrap();
    let ids = || -> Vec<String> { users.status().endpoints.iter().map(|e| e.id().to_string()).collect() };
    eventually("followed again", || ids() == ["2", "3"]).await;
    eventually("the new one is called", || users.status().endpoints[1].counts().succeeded > 20).await;

    stop.store(true, Ordering::Relaxed);
    let (calls, failed, from_three) = calling.await.unwrap();
    assert!(failed.is_empty(), "{} of {calls}: {:?}", failed.len(), failed.first());
    assert!(calls > 200 && from_three > 0, "{calls} {from_three}");
    drop((users, discovery));
    driver.await.unwrap();
}
