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
    let health = &endpoint["health"];
    assert_eq!(
        [&health["state"], &health["last"], &health["passes"]],
        [&json!("healthy"), &json!("passed"), &json!(1)]
    );
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

#[tokio::test(start_paused = true)]
async fn it_says_what_runs_what_trips_and_how_much_failed_lately() {
    let mesh = Mesh::builder()
        .config_toml(
            "[services.database]\nendpoints = [\"a:1\"]\nretry.max_attempts = 1\nhealth.interval = \"1s\"\n\
             breaker.consecutive_failures = 0\nbreaker.failure_threshold = 0.75",
        )
        .probe("database", Counting::default())
        .measure_calls()
        .build()
        .unwrap();
    let read = || serde_json::to_value(mesh.status()).unwrap();
    assert_eq!((&read()["schema"], &read()["components"]), (&json!(1), &json!([])));
    let service = mesh.service("database").unwrap().connect(|_: &EndpointHandle| service_fn(answer));
    mesh.start().await.unwrap();
    let running =
        |component: &str| json!({"service": "database", "component": component, "state": "running"});
    assert_eq!(read()["components"], json!([running("discovery"), running("health")]));

    // In each of 30 seconds one fails and one does not; then 30 seconds of two that do not.
    for second in 0..60 {
        for text in ["a", if second < 30 { "fail" } else { "b" }] {
            let _ = service.clone().oneshot(query(text)).await;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let service_status = &read()["services"][0];
    let rates = &service_status["rates"];
    assert_eq!((&rates["last_10s"]["attempts"], &rates["last_10s"]["failed"]), (&json!(20), &json!(0)));
    let (attempts, failed) =
        (rates["last_5m"]["attempts"].as_u64().unwrap(), rates["last_5m"]["failed"].as_u64());
    assert!((118..=120).contains(&attempts) && failed == Some(30), "{rates}");
    let rate = rates["last_5m"]["error_rate"].as_f64().unwrap();
    assert!((0.24..0.26).contains(&rate), "{rate}");
    assert_eq!(service_status["latency"]["calls"], 120);
    let circuit = &service_status["endpoints"][0]["circuit"];
    assert_eq!(
        (&circuit["trips"]["failure_rate"], &circuit["trips"]["consecutive_failures"]),
        (&json!(75.0), &json!(0))
    );
    assert_eq!((&circuit["state"], &circuit["generation"]), (&json!("closed"), &json!(0)));
    assert_eq!(
        (&service_status["endpoints"][0]["weight"], &service_status["discovery_errors"]),
        (&json!(1), &json!(0))
    );
    mesh.shutdown(Duration::ZERO).await;
    assert_eq!(read()["components"][0]["state"], "stopped");
}

#[tokio::test]
async fn of_ten_thousand_endpoints_it_is_read_in_a_fraction_of_a_second_and_calls_go_on() {
    let endpoints: Vec<_> = (0..10_000).map(|n| format!("\"10.0.{}.{}:1\"", n / 250, n % 250)).collect();
    let config = format!(
        "[services.database]\nendpoints = [{}]\ndiscovery.max_endpoints = 10000",
        endpoints.join(",")
    );
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let service = mesh.service("database").unwrap().connect(|_: &EndpointHandle| service_fn(answer));
    mesh.start().await.unwrap();
    let began = std::time::Instant::now();
    let status = mesh.status();
    let took = began.elapsed();
    assert_eq!(status.services[0].endpoints.len(), 10_000);
    // An order of magnitude above what it takes without optimisation: it must not grow with the square of the endpoints.
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("status of 10 000 endpoints: {took:?}");
    service.oneshot(query("a")).await.unwrap();
    mesh.shutdown(Duration::ZERO).await;
}
