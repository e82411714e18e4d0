//! Whether the program should get requests, by what it requires of its services.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::{Mesh, Readiness, ServiceState};

use crate::inner::{Query, Rows, Says, Source, Streams, query};

async fn answer(query: Query) -> Result<Rows, BoxError> {
    if query.0 == "fail" { Err("failed".into()) } else { Ok(Rows(query.0)) }
}

/// Breaks the circuit of the service's only endpoint.
async fn trip(mesh: &Mesh, service: &str) -> impl Sized + use<> {
    let service =
        mesh.service(service).unwrap().replay(Idempotent).connect(|_: &EndpointHandle| service_fn(answer));
    for _ in 0..2 {
        service.clone().oneshot(query("fail")).await.unwrap_err();
    }
    service
}

fn required(readiness: &Readiness) -> Vec<(&str, &str, bool)> {
    let of = readiness.services.iter();
    of.map(|service| (&*service.service, service.required, service.met)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_takes_the_program_out_only_if_it_says_so() {
    let service = |name: &str, rest: &str| {
        format!(
            "[services.{name}]\nendpoints = [\"{name}:1\"]\n{rest}\nretry.max_attempts = 1\n\
             breaker.consecutive_failures = 2\n"
        )
    };
    let config = service("optional", "required = false")
        + &service("needed", "ready_when = \"available\"")
        + &service("plain", "");
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let readiness = mesh.readiness();
    assert!(!readiness.ready);
    assert_eq!(readiness.reasons[0], "the mesh is built");
    mesh.start().await.unwrap();
    let readiness = mesh.readiness();
    assert!(readiness.ready && readiness.degraded.is_empty(), "{readiness:?}");
    assert_eq!(
        required(&readiness),
        [("needed", "available", true), ("optional", "nothing", true), ("plain", "resolved", true)]
    );

    let _optional = trip(&mesh, "optional").await;
    let _plain = trip(&mesh, "plain").await;
    let readiness = mesh.readiness();
    assert!(readiness.ready, "{readiness:?}");
    let why = |name: &str| {
        format!("service {name} is unavailable: 1 of 1 endpoints: {name}:1 unhealthy (circuit: open)")
    };
    assert_eq!(readiness.degraded, [why("optional"), why("plain")]);
    assert_eq!(readiness.services[1].state, ServiceState::Unavailable);

    let _needed = trip(&mesh, "needed").await;
    let readiness = mesh.readiness();
    assert_eq!((readiness.ready, readiness.reasons), (false, vec![why("needed")]));
    sleep(Duration::from_secs(60)).await;
    assert!(mesh.readiness().ready, "a trial call may go there");
    mesh.shutdown(Duration::ZERO).await;
    assert_eq!(mesh.readiness().reasons, ["the mesh is stopped"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_resolved_counts_if_it_is_required() {
    let streams = Arc::new(Streams::default());
    let mesh = Mesh::builder()
        .config_toml(
            "start_timeout = \"5s\"\n[services.late]\nresolver = \"late\"\n\
             [services.never]\nresolver = \"never\"\nrequired = false",
        )
        .resolver("late", Source::new(&streams, Says::Endpoint("a:1")).after(Duration::from_secs(2)))
        .resolver("never", Source::new(&streams, Says::Error("the name server is on fire")))
        .build()
        .unwrap();
    let early = async {
        sleep(Duration::from_secs(1)).await;
        mesh.readiness()
    };
    let (started, early) = tokio::join!(mesh.start(), early);
    started.unwrap();
    assert_eq!(early.reasons, ["the mesh is starting", "service late is unknown: not resolved yet"]);
    let readiness = mesh.readiness();
    assert!(readiness.ready);
    assert_eq!(
        readiness.degraded,
        ["service never is unavailable: not resolved: cannot resolve: the name server is on fire"]
    );
    let shown = serde_json::to_value(&readiness).unwrap();
    assert_eq!((&shown["ready"], &shown["services"][1]["state"]), (&true.into(), &"unavailable".into()));
}

#[derive(Clone, Default)]
struct Switch(Arc<AtomicBool>);

impl Probe for Switch {
    async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(Probed::Healthy),
            true => Err(ProbeFailure::unreachable("connection refused")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn status_tells_how_every_endpoint_and_every_service_is_and_why() {
    let switch = Switch::default();
    let mesh = Mesh::builder()
        .config_toml(
            "[services.users]\nendpoints = [\"a:1\", \"b:1\", \"c:1\", \"d:1\"]\n\
             ready_when = \"available\"\nhealth.jitter = 0\n[services.plain]\nendpoints = [\"e:1\"]",
        )
        .probe("users", switch.clone())
        .build()
        .unwrap();
    let connect = |name: &str| mesh.service(name).unwrap().connect(|_: &EndpointHandle| service_fn(answer));
    let (_users, plain) = (connect("users"), connect("plain"));
    mesh.start().await.unwrap();
    sleep(Duration::from_millis(10)).await;
    let status = mesh.status();
    let (plain_status, users) = (&status.services[0], &status.services[1]);
    assert_eq!((users.state, users.why.len()), (ServiceState::Healthy, 0));
    assert_eq!(
        (&*users.endpoints[0].state, &*users.endpoints[0].why[0]),
        ("healthy", "probe: passed, 0 s ago")
    );
    assert_eq!((&*plain_status.endpoints[0].state, plain_status.endpoints[0].why.len()), ("unknown", 0));
    plain.oneshot(query("a")).await.unwrap();
    assert_eq!(mesh.status().services[0].endpoints[0].state, "healthy", "a call has told");

    switch.0.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(8)).await;
    let readiness = mesh.readiness();
    assert!(!readiness.ready);
    let why = &readiness.reasons[0];
    let first = "service users is unavailable: 4 of 4 endpoints: a:1 unhealthy (probe: ";
    assert!(why.starts_with(first) && why.contains("failed") && why.ends_with(" and 1 more"), "{why}");
    assert!(why.contains("connection refused, ") && why.contains(" s ago)"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_list_in_the_file_stays_good_however_old_it_grows() {
    let config = "[services.users]\nendpoints = [\"a:1\"]\ndiscovery.max_stale = \"10s\"";
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let service = mesh.service("users").unwrap().connect(|_: &EndpointHandle| service_fn(answer));
    mesh.start().await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(service.oneshot(query("a")).await.unwrap(), Rows("a".into()));
    assert_eq!(mesh.status().services[0].discovery, "current");
    assert_eq!(mesh.shutdown(Duration::ZERO).await.tasks, 1, "and it ends with the mesh");
}
