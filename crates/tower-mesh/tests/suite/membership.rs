//! Endpoints that go and come, and handles that share them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::discovery::FixedList;
use tower_mesh::{EndpointStatus, Mesh, ServiceStatus};

use crate::backend::{Backend, Mood, client, get, status};
use crate::inner::{Counting, Query, Rows, query, tasks};

fn endpoints(mesh: &Mesh) -> Vec<EndpointStatus> {
    the_service(mesh).endpoints
}

fn the_service(mesh: &Mesh) -> ServiceStatus {
    mesh.status().services.remove(0)
}

#[tokio::test]
async fn over_http_a_call_outlives_the_removal_of_its_endpoint_and_new_calls_go_elsewhere() {
    let (hung, well) = (Backend::start(Mood::Hanging).await, Backend::start(Mood::Well).await);
    let list = FixedList::new([hung.endpoint()]).unwrap();
    let config = "[services.users]\nresolver = \"list\"\nhealth.path = \"/healthz\"\nhealth.interval = \"20ms\"\nhealth.timeout = \"10s\"";
    let mesh = Mesh::builder().config_toml(config).resolver("list", list.clone()).build().unwrap();
    let users = mesh.service("users").unwrap().http(client());
    mesh.start().await.unwrap();

    let call = {
        let users = users.clone();
        tokio::spawn(async move { status(&users, get()).await })
    };
    while hung.gets() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    list.upsert(well.endpoint());
    list.remove(hung.endpoint().id());
    while endpoints(&mesh).len() != 1 || endpoints(&mesh)[0].id != well.address.to_string() {
        sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..20 {
        assert_eq!(status(&users, get()).await.unwrap(), 200);
    }
    assert_eq!((hung.gets(), well.gets()), (1, 20), "nothing new goes to what was removed");

    hung.set(Mood::Well);
    assert_eq!(call.await.unwrap().unwrap(), 200, "what was under way ends well");
    // A check that was under way may still end; after it there is none.
    let probed = hung.probes();
    let before = well.probes();
    while well.probes() < before + 5 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(hung.probes() <= probed + 1, "{} after {probed}", hung.probes());
    assert_eq!(mesh.shutdown(Duration::from_secs(1)).await.cut_off, 0);
}

#[tokio::test(start_paused = true)]
async fn probes_of_an_endpoint_end_with_it_even_while_a_call_holds_it_and_a_return_is_a_new_beginning() {
    let (list, probe) = (FixedList::new(["a:1".parse().unwrap()]).unwrap(), Counting::default());
    let config = "[services.database]\nresolver = \"list\"\nbreaker.consecutive_failures = 1\nretry.max_attempts = 1\ndeadline.timeout = \"1h\"\n\
                  [services.database.health]\ninterval = \"1s\"";
    let mesh = Mesh::builder()
        .config_toml(config)
        .resolver("list", list.clone())
        .probe("database", probe.clone())
        .build()
        .unwrap();
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let database = mesh.service("database").unwrap().connect(move |_: &EndpointHandle| {
        let gate = gate.clone();
        service_fn(move |query: Query| {
            let gate = gate.clone();
            async move {
                match query.0.as_str() {
                    "wait" => gate.notified().await,
                    "fail" => return Err(BoxError::from("failed")),
                    _ => {}
                }
                Ok(Rows(query.0))
            }
        })
    });
    mesh.start().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert!(probe.counts().0 >= 8);

    let call = tokio::spawn(database.clone().oneshot(query("wait")));
    tasks().await;
    database.clone().oneshot(query("fail")).await.unwrap_err();
    assert_eq!(endpoints(&mesh)[0].circuit.as_ref().unwrap().state, "open");
    list.set(["b:1".parse().unwrap()]).unwrap();
    tasks().await;
    let ended = probe.counts().0;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(probe.counts().0, ended, "it is not asked any more although a call holds it");
    assert!(probe.counts().1 > 40);

    // It comes back while that call still holds the old record: status shows the new one's circuit, probes and counts.
    list.set(["a:1".parse().unwrap()]).unwrap();
    tasks().await;
    for _ in 0..20 {
        let endpoint = endpoints(&mesh).remove(0);
        assert_eq!((endpoint.id.as_str(), endpoint.started, endpoint.in_flight), ("a:1", 0, 0));
        assert_eq!(endpoint.circuit.unwrap().state, "closed");
    }
    go.notify_one();
    assert_eq!(call.await.unwrap().unwrap(), Rows("wait".into()));
    mesh.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn two_handles_share_endpoints_circuits_and_budget() {
    let list = FixedList::new(["a:1".parse().unwrap()]).unwrap();
    let config = "[services.database]\nresolver = \"list\"\nretry.base_delay = \"1ms\"\nretry.max_attempts = 2\n\
                  budget.min_per_second = 0\nbudget.min_concurrency = 0\nbudget.ratio = 0.5\nbreaker.consecutive_failures = 4";
    let mesh = Mesh::builder().config_toml(config).resolver("list", list).build().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let handle = || {
        let sent = sent.clone();
        mesh.service("database").unwrap().replay(Idempotent).connect(move |_: &EndpointHandle| {
            let sent = sent.clone();
            service_fn(move |query: Query| {
                sent.fetch_add(1, Ordering::Relaxed);
                async move {
                    if query.0 == "fail" { Err(BoxError::from("failed")) } else { Ok(Rows(query.0)) }
                }
            })
        })
    };
    let (one, other) = (handle(), handle());
    mesh.start().await.unwrap();
    for _ in 0..2 {
        one.clone().oneshot(query("well")).await.unwrap();
    }
    // What one handle paid in, the other may spend: two calls and this one, at a half each, make one retry.
    other.clone().oneshot(query("fail")).await.unwrap_err();
    assert_eq!((sent.load(Ordering::Relaxed), the_service(&mesh).retry.granted), (4, 1));
    one.clone().oneshot(query("fail")).await.unwrap_err();
    other.clone().oneshot(query("fail")).await.unwrap_err();
    let status = the_service(&mesh);
    assert_eq!(status.endpoints.len(), 1);
    let endpoint = &status.endpoints[0];
    let reasons: Vec<_> = endpoint.reasons.clone();
    assert_eq!((endpoint.circuit.as_ref().unwrap().state.as_str(), reasons), ("open", vec!["circuit-open"]));
    let before = sent.load(Ordering::Relaxed);
    assert_eq!(endpoint.started, before, "one record counts for both");
    for handle in [one, other] {
        let error = handle.oneshot(query("well")).await.unwrap_err();
        assert_eq!(error.kind(), tower_mesh::ErrorKind::NoEndpoints);
    }
    assert_eq!(sent.load(Ordering::Relaxed), before, "the circuit is open for both");
}

#[tokio::test(start_paused = true)]
async fn handles_that_are_gone_leave_nothing_behind() {
    let mesh = Mesh::builder().config_toml("[services.database]\nendpoints = [\"a:1\"]").build().unwrap();
    mesh.start().await.unwrap();
    let client = Arc::new(());
    for _ in 0..100 {
        let client = client.clone();
        let database = mesh.service("database").unwrap().connect(move |_: &EndpointHandle| {
            let client = client.clone();
            service_fn(move |query: Query| {
                let _client = client.clone();
                async move { Ok::<_, BoxError>(Rows(query.0)) }
            })
        });
        database.oneshot(query("a")).await.unwrap();
    }
    tasks().await;
    let kept = Arc::strong_count(&client);
    assert!(kept <= 4, "{kept} clients are kept for a list that never changes");
    assert_eq!(endpoints(&mesh)[0].succeeded, 100, "what they learned of the endpoint stays");
    mesh.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_nobody_calls_rests_and_is_woken_by_a_call() {
    let config =
        "[services.database]\nresolver = \"list\"\n[services.database.discovery]\nrest_after = \"10s\"";
    let list = FixedList::new(["a:1".parse().unwrap()]).unwrap();
    let mesh = Mesh::builder().config_toml(config).resolver("list", list.clone()).build().unwrap();
    let service = mesh.service("database").unwrap().connect(|_: &EndpointHandle| {
        service_fn(|query: Query| async move { Ok::<_, BoxError>(Rows(query.0)) })
    });
    mesh.start().await.unwrap();
    sleep(Duration::from_secs(15)).await;
    assert_eq!((the_service(&mesh).discovery.as_str(), endpoints(&mesh).len()), ("resting", 1));
    list.set(["b:1".parse().unwrap()]).unwrap();
    service.clone().oneshot(query("SELECT 1")).await.unwrap();
    assert_eq!(endpoints(&mesh)[0].id, "a:1");
    sleep(Duration::from_millis(1001)).await;
    assert_eq!((the_service(&mesh).discovery.as_str(), endpoints(&mesh)[0].id.as_str()), ("current", "b:1"));
    mesh.shutdown(Duration::ZERO).await;
}

#[cfg(feature = "file")]
#[tokio::test]
async fn endpoints_in_a_file_are_followed() {
    let (a, b) = (Backend::start(Mood::Well).await, Backend::start(Mood::Well).await);
    let path = std::env::temp_dir().join(format!("tower-mesh-endpoints-{}.toml", std::process::id()));
    let say = |backend: &Backend| {
        let new = path.with_extension("new");
        std::fs::write(&new, format!("endpoints = [\"{}\"]", backend.address)).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    say(&a);
    let mesh = Mesh::builder().config_toml(format!("[services.users]\nfile = {path:?}")).build().unwrap();
    let users = mesh.service("users").unwrap().http(client());
    mesh.start().await.unwrap();
    assert_eq!((status(&users, get()).await.unwrap(), a.gets()), (200, 1));
    say(&b);
    while endpoints(&mesh)[0].id != b.address.to_string() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((status(&users, get()).await.unwrap(), b.gets()), (200, 1));
    std::fs::write(&path, "endpoints = [\"").unwrap();
    while the_service(&mesh).discovery != "stale" {
        sleep(Duration::from_millis(1)).await;
    }
    let why = the_service(&mesh).discovery_error.unwrap();
    assert!(why.contains("cannot parse endpoints"), "{why}");
    assert_eq!((status(&users, get()).await.unwrap(), b.gets()), (200, 2), "the last good list stays");
    std::fs::remove_file(&path).unwrap();
    mesh.shutdown(Duration::from_secs(5)).await;
}
