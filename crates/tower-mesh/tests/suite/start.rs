//! Starting: what runs when, and that nothing is left when it fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::core::EndpointHandle;
use tower_mesh::{ErrorKind, Mesh, MeshState};

use crate::inner::{Counting, Query, Rows, Says, Source, Streams, query, tasks};

/// A well service, one that is resolved by `says`, and one that nobody needs; all are probed.
fn mesh(streams: &Arc<Streams>, probe: &Counting, says: Says) -> Mesh {
    let service = |name: &str, required: bool| {
        format!("[services.{name}]\nresolver = \"{name}\"\nrequired = {required}\nhealth.interval = \"1s\"\n")
    };
    let config = format!(
        "start_timeout = \"7s\"\n{}{}{}",
        service("well", true),
        service("users", true),
        service("optional", false)
    );
    Mesh::builder()
        .config_toml(config)
        .resolver("well", Source::new(streams, Says::Endpoint("a:1")))
        .resolver("users", Source::new(streams, says))
        .resolver("optional", Source::new(streams, Says::Nothing))
        .probe("well", probe.clone())
        .probe("users", probe.clone())
        .probe("optional", probe.clone())
        .build()
        .unwrap()
}

fn watched(mesh: &Mesh) {
    for name in ["well", "users", "optional"] {
        // Makes the endpoints watched, so that there would be something to probe.
        let _handle = mesh.service(name).unwrap().connect(|_: &EndpointHandle| {
            service_fn(|query: Query| async move { Ok::<_, std::io::Error>(Rows(query.0)) })
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_resolved_is_named_and_everything_is_stopped_again() {
    let before = tasks().await;
    let never = "no answer within 7s";
    for (says, seconds, why) in [
        (Says::Nothing, 7, never),
        (Says::Error("the name server is on fire"), 7, "the name server is on fire"),
        (Says::NotFound, 0, "the source knows no such service"),
    ] {
        let (streams, probe) = (Arc::new(Streams::default()), Counting::default());
        let mesh = mesh(&streams, &probe, says);
        watched(&mesh);
        assert_eq!((mesh.state(), streams.counts().1), (MeshState::Built, 3), "resolved, but not polled");
        assert_eq!(tasks().await, before, "nothing runs");

        let began = Instant::now();
        let error = mesh.start().await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), seconds, "{says:?}");
        assert_eq!((error.component(), error.service().unwrap().as_str()), ("discovery", "users"));
        let text = error.to_string();
        assert!(
            text.starts_with("cannot start discovery of service users: ") && text.contains(why),
            "{text}"
        );

        assert_eq!(mesh.state(), MeshState::Stopped);
        assert_eq!(streams.counts(), (0, 3), "{says:?}: every stream is dropped");
        assert_eq!(tasks().await, before, "{says:?}: no task is left");
        assert_eq!(probe.counts(), (0, 0), "health comes after discovery, and so never came");
        let error = mesh.start().await.unwrap_err();
        assert_eq!(error.to_string(), "cannot start mesh: it is stopped already");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_found_ends_the_start_although_another_is_still_awaited() {
    let streams = Arc::new(Streams::default());
    let mesh = Mesh::builder()
        .config_toml("[services.a]\nresolver = \"slow\"\n[services.b]\nresolver = \"none\"")
        .resolver("slow", Source::new(&streams, Says::Nothing))
        .resolver("none", Source::new(&streams, Says::NotFound))
        .build()
        .unwrap();
    let began = Instant::now();
    assert_eq!(mesh.start().await.unwrap_err().service().unwrap().as_str(), "b");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(streams.counts().0, 0);
}

#[tokio::test(start_paused = true)]
async fn an_optional_service_holds_nobody_up_and_a_second_start_is_refused() {
    let before = tasks().await;
    let (streams, probe) = (Arc::new(Streams::default()), Counting::default());
    let mesh = mesh(&streams, &probe, Says::Endpoint("b:1"));
    watched(&mesh);
    let began = Instant::now();
    mesh.start().await.unwrap();
    assert_eq!((began.elapsed(), mesh.state()), (Duration::ZERO, MeshState::Running));
    let states: Vec<_> = mesh.status().services.into_iter().map(|service| service.discovery).collect();
    assert_eq!(states, ["resolving", "current", "current"]);
    let error = mesh.start().await.unwrap_err();
    assert_eq!((error.component(), error.service()), ("mesh", None));
    assert_eq!(error.to_string(), "cannot start mesh: it is running already");
    assert_eq!(mesh.state(), MeshState::Running, "it goes on");

    // A call to it waits its own time and no longer.
    let optional = mesh.service("optional").unwrap().connect(|_: &EndpointHandle| {
        service_fn(|query: Query| async move { Ok::<_, std::io::Error>(Rows(query.0)) })
    });
    let error = optional.oneshot(query("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoints);
    assert!(began.elapsed() <= Duration::from_secs(15), "{:?}", began.elapsed());
    let report = mesh.shutdown(Duration::ZERO).await;
    assert_eq!((report.cut_off, report.tasks, mesh.state()), (0, 6, MeshState::Stopped));
    assert_eq!((streams.counts().0, tasks().await), (0, before));
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_what_is_slow_and_calls_wait_with_it() {
    let streams = Arc::new(Streams::default());
    let slow = Source::new(&streams, Says::Endpoint("a:1")).after(Duration::from_secs(2));
    let mesh = Mesh::builder()
        .config_toml("[services.users]\nresolver = \"slow\"")
        .resolver("slow", slow)
        .build()
        .unwrap();
    let users = mesh.service("users").unwrap().connect(|_: &EndpointHandle| {
        service_fn(|query: Query| async move { Ok::<_, std::io::Error>(Rows(query.0)) })
    });
    let began = Instant::now();
    let (start, answer) = tokio::join!(mesh.start(), users.oneshot(query("early")));
    start.unwrap();
    assert_eq!((answer.unwrap(), began.elapsed().as_secs()), (Rows("early".into()), 2));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_start_that_is_under_way() {
    let (streams, before) = (Arc::new(Streams::default()), tasks().await);
    let mesh = mesh(&streams, &Counting::default(), Says::Nothing);
    let began = Instant::now();
    let (start, report) = tokio::join!(mesh.start(), mesh.shutdown(Duration::from_secs(60)));
    let error = start.unwrap_err();
    assert!(error.component() == "mesh" && error.to_string().contains("stopp"), "{error}");
    assert_eq!((began.elapsed(), report.tasks), (Duration::ZERO, 3));
    assert_eq!((mesh.state(), streams.counts().0, tasks().await), (MeshState::Stopped, 0, before));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_was_dropped_is_ended_by_a_shutdown() {
    let (streams, before) = (Arc::new(Streams::default()), tasks().await);
    let mesh = mesh(&streams, &Counting::default(), Says::Nothing);
    assert!(tokio::time::timeout(Duration::from_secs(1), mesh.start()).await.is_err());
    assert_eq!((mesh.state(), streams.counts().0), (MeshState::Starting, 3));
    mesh.shutdown(Duration::ZERO).await;
    assert_eq!((mesh.state(), streams.counts().0, tasks().await), (MeshState::Stopped, 0, before));
}

#[tokio::test(start_paused = true)]
async fn a_mesh_that_nobody_holds_any_more_runs_out_by_itself() {
    let (streams, before) = (Arc::new(Streams::default()), tasks().await);
    let mesh = mesh(&streams, &Counting::default(), Says::Endpoint("b:1"));
    watched(&mesh);
    mesh.start().await.unwrap();
    assert!(tasks().await > before);
    drop(mesh);
    assert_eq!((tasks().await, streams.counts().0), (before, 0));
}
