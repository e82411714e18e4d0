//! What a mesh tells of itself: typed, in order, and to nobody's cost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle, Resolve, ResolveError, ServiceName, Update};
use tower_mesh::{Event, Events, Mesh, MeshBuilder, Missed};

use crate::inner::{Query, Rows, query, tasks};

/// A source that says what the test says.
struct Said(Mutex<Option<mpsc::UnboundedReceiver<Result<Update, ResolveError>>>>);

type Say = mpsc::UnboundedSender<Result<Update, ResolveError>>;

impl Said {
    fn new() -> (Self, Say) {
        let (say, said) = mpsc::unbounded_channel();
        (Self(Mutex::new(Some(said))), say)
    }
}

impl Resolve for Said {
    type Updates = stream::BoxStream<'static, Result<Update, ResolveError>>;

    fn resolve(&self, _: &ServiceName) -> Self::Updates {
        let said = self.0.lock().unwrap().take().unwrap();
        Box::pin(stream::unfold(said, |mut said| async { said.recv().await.map(|item| (item, said)) }))
    }
}

fn all(addresses: &[&str]) -> Result<Update, ResolveError> {
    Ok(Update::Reset(addresses.iter().map(|address| address.parse().unwrap()).collect()))
}

/// What was told since, as it is serialised, without the times.
fn told(events: &mut Events) -> Vec<Value> {
    let told = std::iter::from_fn(|| events.try_next());
    told.map(|event| {
        let mut value = serde_json::to_value(&*event.unwrap()).unwrap();
        assert!(value.as_object_mut().unwrap().remove("at_ms").unwrap().as_u64() > Some(1_600_000_000_000));
        value
    })
    .collect()
}

/// Of those the ones of this kind.
fn of_kind(told: &[Value], kind: &str) -> Vec<Value> {
    told.iter().filter(|event| event["event"] == kind).cloned().collect()
}

fn built(more: &str) -> (MeshBuilder, Say) {
    let (source, say) = Said::new();
    let config = format!("[services.database]\nresolver = \"said\"\n{more}");
    (Mesh::builder().config_toml(config).resolver("said", source), say)
}

async fn answer(query: Query) -> Result<Rows, BoxError> {
    if query.0 == "fail" {
        Err("postgres://user:secret@10.1.2.3:5432 failed".into())
    } else {
        Ok(Rows(query.0))
    }
}

#[tokio::test(start_paused = true)]
async fn from_the_start_to_the_end_in_order() {
    let (builder, say) = built("");
    let mesh = builder.build().unwrap();
    let mut events = mesh.events();
    say.send(all(&["a:1", "b:1"])).unwrap();
    mesh.start().await.unwrap();
    say.send(all(&["b:1", "c:1"])).unwrap();
    say.send(Err(ResolveError::new("the name server is on fire"))).unwrap();
    say.send(all(&["b:1", "c:1"])).unwrap();
    tasks().await;
    mesh.shutdown(Duration::ZERO).await;

    let none = json!({"count": 0, "first": []});
    let (a, b, c) = (
        json!({"id": "a:1", "address": "a:1"}),
        json!({"id": "b:1", "address": "b:1"}),
        json!({"id": "c:1", "address": "c:1"}),
    );
    let expected = [
        json!({"event": "starting"}),
        json!({"event": "component-started", "service": "database", "component": "discovery"}),
        json!({"event": "discovery-changed", "service": "database", "from": "not-driven", "to": "resolving"}),
        json!({"event": "discovery-changed", "service": "database", "from": "resolving", "to": "current"}),
        json!({"event": "endpoints-changed", "service": "database", "version": 1, "over": 0,
            "added": {"count": 2, "first": [a, b]}, "removed": none, "changed": none}),
        json!({"event": "started"}),
        json!({"event": "endpoints-changed", "service": "database", "version": 2, "over": 0,
            "added": {"count": 1, "first": [c]}, "removed": {"count": 1, "first": [a]}, "changed": none}),
        json!({"event": "discovery-failed", "service": "database", "state": "stale", "error": "cannot resolve: the name server is on fire"}),
        json!({"event": "discovery-changed", "service": "database", "from": "current", "to": "stale"}),
        json!({"event": "discovery-recovered", "service": "database", "from": "stale"}),
        json!({"event": "shutting-down"}),
        json!({"event": "discovery-changed", "service": "database", "from": "current", "to": "stale"}),
        json!({"event": "stopped", "cut_off": 0}),
    ];
    let mut told = told(&mut events);
    told.retain(|event| event["event"] != "readiness-changed");
    let mut last = None;
    for event in &mut told {
        let sequence = event.as_object_mut().unwrap().remove("sequence").unwrap().as_u64();
        assert!(sequence > last || sequence == Some(0));
        last = sequence;
    }
    assert_eq!(told, expected);
    assert!(events.next().await.is_none(), "there will be no more");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_with_other_attributes_has_changed() {
    let (builder, say) = built("");
    let mesh = builder.build().unwrap();
    say.send(all(&["a:1"])).unwrap();
    mesh.start().await.unwrap();
    let mut events = mesh.events();
    let heavy = "a:1".parse::<tower_mesh::core::Endpoint>().unwrap().with_weight(7.try_into().unwrap());
    for _ in 0..2 {
        say.send(Ok(Update::Upsert(vec![heavy.clone()]))).unwrap();
        tasks().await;
    }
    let changes = of_kind(&told(&mut events), "endpoints-changed");
    assert_eq!(changes.len(), 1, "said again it is no news");
    assert_eq!((&changes[0]["changed"]["count"], &changes[0]["added"]["count"]), (&json!(1), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn circuits_and_calls_that_were_given_up_with_their_reasons() {
    let (builder, say) =
        built("breaker.consecutive_failures = 2\nretry.base_delay = \"10ms\"\nretry.jitter = \"none\"");
    let mesh = builder.build().unwrap();
    say.send(all(&["10.1.2.3:1"])).unwrap();
    let service = mesh.service("database").unwrap().replay(Idempotent);
    let service = service.connect(|_: &EndpointHandle| service_fn(answer)).operation("select");
    mesh.start().await.unwrap();
    let mut events = mesh.events();
    let error = service.clone().oneshot(query("fail")).await.unwrap_err();
    let told = told(&mut events);

    let circuit = of_kind(&told, "circuit-changed");
    let mut circuit = circuit[0].clone();
    let open_for = circuit.as_object_mut().unwrap().remove("open_for_ms").unwrap();
    assert!(open_for.as_u64() >= Some(15_000), "{open_for}");
    circuit.as_object_mut().unwrap().remove("sequence");
    assert_eq!(
        circuit,
        json!({"event": "circuit-changed", "service": "database", "endpoint": {"id": "10.1.2.3:1", "address": "10.1.2.3:1"},
            "from": "closed", "to": "open", "reason": "consecutive-failures", "generation": 1, "total": 2, "failed": 2, "slow": 0})
    );
    let given_up = &of_kind(&told, "retry-given-up")[0];
    assert_eq!((&given_up["operation"], &given_up["reason"]), (&json!("select"), &json!("attempts")));
    let attempts = given_up["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3);
    assert_eq!(attempts[0], json!({"reason": "local", "after_ms": 0, "endpoint": "10.1.2.3:1"}));
    assert!(attempts[1]["after_ms"] == 10 && attempts[1]["endpoint"] == "10.1.2.3:1");
    assert_eq!((&attempts[2]["reason"], &attempts[2]["endpoint"]), (&json!("refused"), &Value::Null));
    assert!(given_up["budget_balance"].as_u64() > Some(0));

    // The operator is told where; the caller is not.
    let said = error.to_string();
    assert!(!said.contains("10.1.2.3") && !said.contains("secret") && said.contains("database"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn ejections_and_their_end() {
    let (builder, say) = built(
        "discovery.algorithm = \"round_robin\"\nbreaker.consecutive_failures = 0\nretry.max_attempts = 1\n[services.database.outlier]\nconsecutive_failures = 2",
    );
    let mesh = builder.build().unwrap();
    let addresses: Vec<_> = (0..5).map(|n| format!("e:{n}")).collect();
    say.send(all(&addresses.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
    let service = mesh.service("database").unwrap().connect(|endpoint: &EndpointHandle| {
        let bad = endpoint.id().as_str() == "e:3";
        service_fn(move |query: Query| async move {
            if bad { Err(BoxError::from("failed")) } else { Ok(Rows(query.0)) }
        })
    });
    mesh.start().await.unwrap();
    let mut events = mesh.events();
    for _ in 0..100 {
        let _ = service.clone().oneshot(query("a")).await;
    }
    let ejected = of_kind(&told(&mut events), "endpoint-ejected");
    assert_eq!(ejected.len(), 1);
    assert_eq!((&ejected[0]["endpoint"]["id"], &ejected[0]["rule"]), (&json!("e:3"), &json!("consecutive")));
    assert!(ejected[0]["for_ms"].as_u64() >= Some(1000) && ejected[0]["ejections"] == 1);
    sleep(Duration::from_secs(120)).await;
    let back = of_kind(&told(&mut events), "endpoint-readmitted");
    assert_eq!((&back[0]["endpoint"]["id"], &back[0]["by"]), (&json!("e:3"), &json!("time")));
}

/// Passes while it is told to.
struct Switched(watch::Receiver<bool>);

impl Probe for Switched {
    async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        if *self.0.borrow() {
            Ok(Probed::Healthy)
        } else {
            Err(ProbeFailure::unreachable("connection refused"))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn health_says_why() {
    let (builder, say) = built("health.interval = \"1s\"");
    let (switch, switched) = watch::channel(true);
    let mesh = builder.probe("database", Switched(switched)).build().unwrap();
    say.send(all(&["a:1"])).unwrap();
    let _service = mesh.service("database").unwrap().connect(|_: &EndpointHandle| service_fn(answer));
    mesh.start().await.unwrap();
    let mut events = mesh.events();
    sleep(Duration::from_secs(5)).await;
    switch.send(false).unwrap();
    sleep(Duration::from_secs(20)).await;
    let changes = of_kind(&told(&mut events), "health-changed");
    let last = changes.last().unwrap();
    assert_eq!(
        (&last["from"], &last["to"], &last["endpoint"]["address"]),
        (&json!("healthy"), &json!("unhealthy"), &json!("a:1"))
    );
    assert!(last["reason"].as_str().unwrap().contains("connection refused"));
}

#[tokio::test(start_paused = true)]
async fn background_work_that_fails_is_told() {
    let (builder, say) = built("");
    let mesh = builder.build().unwrap();
    let mut events = mesh.events();
    let service = mesh.service("database").unwrap();
    // Made when endpoints are known, by the driver.
    let _service = service.connect(|_: &EndpointHandle| -> BoxCloneSyncService<Query, Rows, BoxError> {
        panic!("a bind of the user's panics")
    });
    say.send(all(&["a:1"])).unwrap();
    mesh.start().await.unwrap();
    tasks().await;
    let failed = of_kind(&told(&mut events), "component-failed");
    assert_eq!((&failed[0]["component"], &failed[0]["error"]), (&json!("discovery"), &json!("it panicked")));

    // What ends with the mesh has not failed.
    let (builder, say) = built("");
    let mesh = builder.build().unwrap();
    let mut events = mesh.events();
    say.send(all(&["a:1"])).unwrap();
    mesh.start().await.unwrap();
    drop(mesh);
    tasks().await;
    let told = told(&mut events);
    assert_eq!(of_kind(&told, "component-started").len(), 1);
    assert_eq!(of_kind(&told, "component-failed").len(), 0);
    assert!(events.next().await.is_none(), "the mesh is gone");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_resolved_is_told_before_the_stop() {
    let (builder, say) = built("");
    let mesh = builder.build().unwrap();
    let mut events = mesh.events();
    say.send(Err(ResolveError::new("refused"))).unwrap();
    mesh.start().await.unwrap_err();
    let told = told(&mut events);
    let names: Vec<_> = told.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(
        names[names.len() - 4..],
        ["component-failed", "shutting-down", "discovery-changed", "stopped"][..]
    );
    assert_eq!(of_kind(&told, "component-failed")[0]["error"], "cannot resolve: refused");
}

#[tokio::test(start_paused = true)]
async fn a_sink_hears_all_of_it_and_one_that_panics_hurts_nobody() {
    let before = tasks().await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = heard.clone();
    let (builder, say) = built("");
    let mesh = builder
        .event_sink(|_: Result<&Event, Missed>| panic!("a sink of the user's panics"))
        .event_sink(move |event: Result<&Event, Missed>| {
            into.lock().unwrap().push(serde_json::to_value(event.unwrap()).unwrap()["event"].clone());
        })
        .build()
        .unwrap();
    say.send(all(&["a:1"])).unwrap();
    mesh.start().await.unwrap();
    mesh.shutdown(Duration::ZERO).await;
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert_eq!((heard.first().unwrap(), heard.last().unwrap()), (&json!("starting"), &json!("stopped")));
    assert_eq!(tasks().await, before);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_told_when_it_changes_and_only_then() {
    let (builder, say) = built("");
    let mesh = builder.build().unwrap();
    let mut events = mesh.events();
    say.send(all(&["a:1"])).unwrap();
    mesh.start().await.unwrap();
    sleep(Duration::from_secs(30)).await;
    let changes = of_kind(&told(&mut events), "readiness-changed");
    assert_eq!(changes.last().unwrap()["ready"], true);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(of_kind(&told(&mut events), "readiness-changed"), [] as [Value; 0]);
    say.send(all(&[])).unwrap();
    sleep(Duration::from_secs(2)).await;
    let changes = of_kind(&told(&mut events), "readiness-changed");
    assert_eq!((changes.len(), &changes[0]["ready"]), (1, &json!(false)));
    let reason = changes[0]["reasons"][0].as_str().unwrap();
    assert!(reason.contains("database"), "{reason}");
    say.send(all(&["a:1"])).unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(of_kind(&told(&mut events), "readiness-changed")[0]["ready"], true);
}
