//! Calls go on over real backends while DNS is gone.

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
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tower_mesh_discovery::{DiscoveryLayer, DiscoveryState};
use tower_mesh_dns::Families;
use tower_mesh_http::{Authority, Classifier};

use crate::server::Bind;

async fn eventually(what: &str, is: impl Fn() -> bool) {
    for _ in 0..800 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("never: {what}");
}

fn serve(listener: TcpListener) {
    let app = Router::new().route("/", get(|| async { "well" }));
    tokio::spawn(async move { axum::serve(listener, app).await });
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_while_the_server_is_gone_and_the_age_of_the_answer_is_seen() {
    let Some(mut bind) = Bind::start() else { return };
    // Two addresses at one port, as one name has it.
    let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = one.local_addr().unwrap().port();
    let two = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    serve(one);
    serve(two);
    bind.update("update add live.mesh.test 1 A 127.0.0.1\nupdate add live.mesh.test 1 A 127.0.0.2");
    let dns = bind.resolver(|config| config.families(Families::V4));
    let name = format!("live.mesh.test:{port}");
    let (discovery, driver) = DiscoveryLayer::new(&dns, name.parse().unwrap());
    let driver = tokio::spawn(driver);
    let discovery = discovery.bind(Authority).classify(Classifier::default());
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let live = tower::Layer::layer(&discovery, client);

    let stop = Arc::new(AtomicBool::new(false));
    let calling = {
        let (live, stop) = (live.clone(), stop.clone());
        tokio::spawn(async move {
            let (mut calls, mut failed) = (0_u32, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let request = Request::get("http://live/").body(Empty::new()).unwrap();
                calls += 1;
                match live.clone().oneshot(request).await {
                    Ok(response) => {
                        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "well");
                    }
                    Err(error) => failed.push(error.to_string()),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (calls, failed)
        })
    };
    let state = || live.status().state;
    eventually("resolved", || state() == DiscoveryState::Current).await;
    let records = || -> Vec<_> { live.status().endpoints.iter().map(|endpoint| endpoint.key()).collect() };
    let before = records();
    assert_eq!(before.len(), 2);

    bind.kill();
    eventually("stale", || state() == DiscoveryState::Stale).await;
    let answered = live.status().updated_at.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let status = live.status();
    assert_eq!(
        (status.state, status.updated_at, records()),
        (DiscoveryState::Stale, Some(answered), before.clone())
    );
    assert!(status.last_error.is_some());
    bind.run();
    eventually("current", || state() == DiscoveryState::Current).await;
    let status = live.status();
    let age = status.updated_at.unwrap().since(answered);
    assert!(age >= Duration::from_millis(1500) && status.last_error.is_none(), "{age:?}");
    assert_eq!(records(), before, "what was learned of them is kept");

    stop.store(true, Ordering::Relaxed);
    let (calls, failed) = calling.await.unwrap();
    assert!(failed.is_empty(), "{} of {calls}: {:?}", failed.len(), failed.first());
    assert!(calls > 200, "{calls}");
    drop((live, discovery));
    driver.await.unwrap();
}
