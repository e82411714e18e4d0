//! Status: plain values that serialize, and reading changes nothing.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::Mesh;
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};

use crate::inner::{Counting, Query, Rows, query, tasks};

async fn answer(query: Query) -> Result<Rows, BoxError> {
    if query.0 == "fail" { Err("failed".into()) } else { Ok(Rows(query.0)) }
}

#[tokio::test(start_paused = true)]
async fn it_is_json_and_reading_it_changes_nothing() {
    let config = "[services.database]\nendpoints = [\"a:1\"]\nbreaker.consecutive_failures = 2\nbreaker.reset_timeout = \"10s\"\n\
                  retry.max_attempts = 1\nhealth.interval = \"1h\"\n[services.users]\nendpoints = [\"b:1\"]";
    let mesh = Mesh::builder().config_toml(config).probe("database", Counting::default()).build().unwrap();
    let read = || serde_json::to_value(mesh.status()).unwrap();
    let built = read();
    assert_eq!(
        (&built["state"], &built["services"][0]["discovery"]),
        (&json!("built"), &json!("not-driven"))
    );

    let service =
        mesh.service("database").unwrap().replay(Idempotent).connect(|_: &EndpointHandle| service_fn(answer));
    mesh.start().await.unwrap();
    tasks().await;
    service.clone().oneshot(query("a")).await.unwrap();
    for _ in 0..2 {
        service.clone().oneshot(query("fail")).await.unwrap_err();
    }
    let now = read();
    let endpoint = &now["services"][0]["endpoints"][0];
    assert_eq!(now["state"], "running");
    assert_eq!(now["services"][0]["name"], "database");
    assert_eq!(endpoint["available"], false);
    assert_eq!(endpoint["reasons"], json!(["circuit-open"]));
    assert_eq!(endpoint["circuit"]["state"], "open");
    assert_eq!(endpoint["circuit"]["consecutive_failures"], 2);
    assert_eq!(endpoint["health"], json!({"state": "healthy", "last": "passed"}));
    assert_eq!(
        (&endpoint["started"], &endpoint["succeeded"], &endpoint["failed"]),
        (&json!(3), &json!(1), &json!(2))
    );
    assert!(now["services"][1]["endpoints"][0]["circuit"].is_null(), "no handle was made of it");

    for _ in 0..100 {
        assert_eq!(read(), now);
    }
    // The wait is over, and reading makes no trial of it.
    sleep(Duration::from_secs(60)).await;
    let later = read();
    assert_eq!(later["services"][0]["endpoints"][0]["circuit"]["state"], "open");
    assert_eq!(later["services"][0]["endpoints"][0]["available"], true, "a trial is wanted");
    for _ in 0..100 {
        assert_eq!(read(), later);
    }
    service.oneshot(query("a")).await.unwrap();
    assert_ne!(read()["services"][0]["endpoints"][0]["circuit"]["state"], "open", "a call does");
    mesh.shutdown(Duration::ZERO).await;
    let ended = read();
    assert_eq!((&ended["state"], &ended["services"][0]["discovery"]), (&json!("stopped"), &json!("stale")));
}
