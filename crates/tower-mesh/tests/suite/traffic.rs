//! Traffic to real servers that misbehave.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tower_mesh::core::error::find;
use tower_mesh::retry::error::RetriesExhausted;
use tower_mesh::{EndpointStatus, ErrorKind, Mesh, RetryStatus};

use crate::backend::{Backend, Mood, client, get, nobody, post, status};

fn mesh(addresses: &[std::net::SocketAddr], more: &str) -> Mesh {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let config = format!(
        "[services.users]\nendpoints = [{}]\nretry.base_delay = \"1ms\"\nretry.max_delay = \"5ms\"\n{more}",
        endpoints.join(", ")
    );
    Mesh::builder().config_toml(config).build().unwrap()
}

fn endpoint(mesh: &Mesh, backend: &Backend) -> EndpointStatus {
    let endpoints = mesh.status().services.remove(0).endpoints;
    endpoints.into_iter().find(|endpoint| endpoint.id == backend.address.to_string()).unwrap()
}

fn retries(mesh: &Mesh) -> RetryStatus {
    mesh.status().services[0].retry
}

/// Waits for what must come, without holding the test up for ever if it does not.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let looking = async {
        while !is() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), looking).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn of_two_servers_one_fails_and_callers_see_nothing_of_it() {
    let (well, bad) = (Backend::start(Mood::Well).await, Backend::start(Mood::Failing).await);
    let mesh = mesh(&[well.address, bad.address], "breaker.reset_timeout = \"1h\"");
    let users = mesh.service("users").unwrap().http(client());
    mesh.start().await.unwrap();
    for _ in 0..20 {
        let answers = join_all((0..10).map(|_| status(&users, get()))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap() == 200));
    }
    let (failed, sent) = (endpoint(&mesh, &bad), well.gets() + bad.gets());
    assert!(bad.gets() > 0 && sent == 200 + bad.gets(), "each failure was sent again, once");
    assert_eq!((retries(&mesh).granted, failed.failed), (bad.gets(), bad.gets()));
    assert_eq!(failed.circuit.unwrap().state, "open", "after {} failures", bad.gets());
    assert_eq!((failed.available, failed.reasons), (false, vec!["circuit-open"]));
    assert!(endpoint(&mesh, &well).available);
    mesh.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_post_is_not_sent_again_but_it_is_counted() {
    let bad = Backend::start(Mood::Failing).await;
    let mesh = mesh(&[bad.address], "breaker.consecutive_failures = 6\nbreaker.min_calls = 1000");
    let users = mesh.service("users").unwrap().http(client());
    mesh.start().await.unwrap();
    for sent in 1..=3 {
        assert_eq!(status(&users, post()).await.unwrap(), 503, "the server's own answer");
        assert_eq!((bad.posts(), endpoint(&mesh, &bad).failed), (sent, sent));
    }
    assert_eq!(retries(&mesh).granted, 0);
    assert_eq!(status(&users, get()).await.unwrap(), 503);
    assert_eq!((bad.gets(), endpoint(&mesh, &bad).circuit.unwrap().state.as_str()), (3, "open"));
    // Now nothing is sent any more.
    let error = status(&users, post()).await.unwrap_err();
    assert_eq!((error.kind(), bad.posts()), (ErrorKind::NoEndpoints, 3));
    mesh.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn probes_take_a_server_out_and_bring_it_back() {
    let (well, other) = (Backend::start(Mood::Well).await, Backend::start(Mood::Well).await);
    let health = "[services.users.health]\npath = \"/healthz\"\ninterval = \"5ms\"\nunhealthy_interval = \"5ms\"\ntimeout = \"2s\"";
    let mesh = mesh(&[well.address, other.address], health);
    let users = mesh.service("users").unwrap().http(client());
    mesh.start().await.unwrap();
    until("both healthy", || {
        [&well, &other].iter().all(|backend| endpoint(&mesh, backend).health.unwrap().state == "healthy")
    })
    .await;
    other.set(Mood::Failing);
    until("one out", || !endpoint(&mesh, &other).available).await;
    let out = endpoint(&mesh, &other);
    assert_eq!((out.reasons, out.health.unwrap().state.as_str()), (vec!["probe-down"], "unhealthy"));
    let before = other.gets();
    for _ in 0..20 {
        assert_eq!(status(&users, get()).await.unwrap(), 200);
    }
    assert_eq!((other.gets(), retries(&mesh).granted), (before, 0), "no call had to find that out");
    other.set(Mood::Well);
    until("back again", || endpoint(&mesh, &other).available).await;
    let using = async {
        while other.gets() == before {
            assert_eq!(status(&users, get()).await.unwrap(), 200);
        }
    };
    assert!(timeout(Duration::from_secs(10), using).await.is_ok(), "it is used again");
    mesh.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_hung_server_costs_a_caller_one_attempt() {
    let (well, hung) = (Backend::start(Mood::Well).await, Backend::start(Mood::Hanging).await);
    let mesh = mesh(
        &[well.address, hung.address],
        "retry.attempt_timeout = \"100ms\"\nbreaker.consecutive_failures = 2\nbreaker.reset_timeout = \"1h\"",
    );
    let users = mesh.service("users").unwrap().http(client());
    mesh.start().await.unwrap();
    for _ in 0..10 {
        let at = tokio::time::Instant::now();
        let answers = join_all((0..4).map(|_| status(&users, get()))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap() == 200));
        // One attempt's time, the retry elsewhere, and room for a slow machine.
        assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
    }
    assert!(hung.gets() > 0);
    let out = endpoint(&mesh, &hung);
    assert_eq!(out.circuit.unwrap().state, "open", "calls that timed out are failures");
    assert_eq!(out.reasons, ["circuit-open"]);

    // With nobody else there the call ends too, and says how.
    let alone = self::mesh(&[hung.address], "retry.attempt_timeout = \"50ms\"\nretry.max_attempts = 2");
    let users = alone.service("users").unwrap().http(client());
    alone.start().await.unwrap();
    let error = status(&users, get()).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::AttemptTimedOut, 2));
    assert_eq!(error.to_string(), "service users: no answer in time after 2 attempts");
    for mesh in [mesh, alone] {
        mesh.shutdown(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn with_all_down_a_call_ends_soon_and_tells_no_address() {
    let addresses = [nobody().await, nobody().await];
    let mesh = mesh(&addresses, "breaker.consecutive_failures = 3\nbreaker.reset_timeout = \"1h\"");
    let users = mesh.service("users").unwrap().http(client());
    mesh.start().await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..6 {
        let error = timeout(Duration::from_secs(5), status(&users, get())).await.unwrap().unwrap_err();
        let text = error.to_string();
        for address in &addresses {
            assert!(!text.contains(&address.port().to_string()) && !text.contains("127.0.0.1"), "{text}");
        }
        if error.kind() == ErrorKind::Upstream {
            assert_eq!(error.attempts(), 3);
            assert!(find::<RetriesExhausted>(&error).is_some() && find::<std::io::Error>(&error).is_some());
        }
        kinds.push(error.kind());
    }
    assert_eq!((kinds[0], kinds[5]), (ErrorKind::Upstream, ErrorKind::NoEndpoints), "{kinds:?}");
    mesh.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn what_a_status_means_can_be_said_for_a_service_and_for_an_operation() {
    use tower_mesh::core::classify::{Origin, Retry, Verdict};
    let bad = Backend::start(Mood::Failing).await;
    let mesh = mesh(&[bad.address], "breaker.consecutive_failures = 1000\nbreaker.min_calls = 1000");
    let classifier = tower_mesh::http::Classifier::default()
        .statuses(503..=503, Verdict::failure(Origin::Remote, Retry::Never))
        .statuses_of("again", 503..=503, Verdict::failure(Origin::Remote, Retry::NotProcessed))
        .statuses_of("shrug", 503..=503, Verdict::SUCCESS);
    let users = mesh.service("users").unwrap().classify(classifier).http(client());
    mesh.start().await.unwrap();
    let mut before = (0, 0);
    for (operation, sent, failed) in [("plain", 1, 1), ("again", 3, 3), ("shrug", 1, 0)] {
        assert_eq!(status(&users.operation(operation), post()).await.unwrap(), 503);
        let now = (bad.posts(), endpoint(&mesh, &bad).failed);
        assert_eq!((now.0 - before.0, now.1 - before.1), (sent, failed), "{operation}");
        before = now;
    }
}
