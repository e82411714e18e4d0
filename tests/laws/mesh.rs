//! What the integrator owes on top of its layers: bounded answers in every state of its life, nothing left behind, and one set of records however many
//! handles there are.

use std::time::Duration;

use tower::ServiceExt;
use tower_mesh::config::ServiceConfig;
use tower_mesh::{Config, ErrorKind, Mesh, MeshRequest};
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::replay::Idempotent;
use tower_mesh_core::{DropReason, EndpointHandle};
use tower_mesh_health::HealthConfig;
use tower_mesh_test::{Behaviour, Fleet, ScriptedResolver, Stepped};
use tower_mesh_tests::{ms, now, seconds, settle};

#[derive(Debug, Clone, Copy)]
struct Question;

impl MeshRequest for Question {
    type Response = String;
}

struct Well;

impl Probe for Well {
    async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        Ok(Probed::Healthy)
    }
}

/// A mesh of one service with probes, whose endpoints `resolver` says.
fn mesh(resolver: &ScriptedResolver) -> Mesh {
    let users = ServiceConfig::resolved_by("scripted").health(HealthConfig::default());
    Mesh::builder()
        .config(Config::new().service("users".parse().unwrap(), users))
        .resolver("scripted", resolver.clone())
        .probe("users", Well)
        .build()
        .unwrap()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

type Service = tower_mesh::Connected<
    tower_mesh_test::Inner<Question, String>,
    tower_mesh_core::classify::ByResult,
    Idempotent,
>;

fn service(mesh: &Mesh, fleet: &Fleet<Question>) -> Service {
    let fleet = fleet.clone();
    mesh.service("users")
        .unwrap()
        .replay(Idempotent)
        .connect(move |endpoint: &EndpointHandle| fleet.connect(endpoint))
}

#[tokio::test(start_paused = true)]
async fn building_it_runs_nothing_and_a_call_before_the_start_is_refused_at_once() {
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(["a:1"]));
    resolver.reset(["a:1"]);
    let mesh = mesh(&resolver);
    let users = service(&mesh, &fleet);
    assert_eq!(tasks(), 0);
    let start = now();
    assert_eq!(users.oneshot(Question).await.unwrap_err().kind(), ErrorKind::NotStarted);
    assert_eq!((now(), fleet.at("a:1").calls()), (start, 0));
}

#[tokio::test(start_paused = true)]
async fn shutting_down_leaves_no_task_and_no_stream_behind() {
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(["a:1", "b:1"]));
    resolver.reset(["a:1", "b:1"]);
    let mesh = mesh(&resolver);
    let users = service(&mesh, &fleet);
    mesh.start().await.unwrap();
    assert!(users.clone().oneshot(Question).await.is_ok());
    assert!(tasks() > 0);
    let report = mesh.shutdown(seconds(10)).await;
    assert_eq!((report.cut_off, report.tasks), (0, 2), "the driver and the prober");
    assert_eq!((tasks(), resolver.streams()), (0, 0));
    assert_eq!(users.oneshot(Question).await.unwrap_err().kind(), ErrorKind::ShuttingDown);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_says_why_in_bounded_time_and_leaves_nothing_behind() {
    let resolver = ScriptedResolver::new();
    resolver.fail("the registry");
    let mesh = mesh(&resolver);
    let start = now();
    let error = mesh.start().await.unwrap_err();
    assert_eq!(
        (error.component(), error.service().map(ToString::to_string)),
        ("discovery", Some("users".into()))
    );
    assert!(error.to_string().contains("the registry"), "{error}");
    assert_eq!(now().since(start), Config::START_TIMEOUT);
    assert_eq!((tasks(), resolver.streams()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_may_end_within_the_grace() {
    for (behaviour, took, cut_off) in
        [(Behaviour::Slow(seconds(2)), seconds(2), 0), (Behaviour::Hanging, seconds(5), 1)]
    {
        let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(["a:1"]));
        resolver.reset(["a:1"]);
        let mesh = mesh(&resolver);
        let users = service(&mesh, &fleet);
        mesh.start().await.unwrap();
        fleet.set("a:1", behaviour);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(users.oneshot(Question));
        settle().await;
        assert_eq!(fleet.at("a:1").calls(), 1);
        let start = now();
        let report = mesh.shutdown(seconds(5)).await;
        let late = now().since(start).saturating_sub(took);
        assert!(late <= ms(20), "{late:?} after {took:?}");
        assert_eq!(report.cut_off, cut_off);
        settle().await;
        let ended = tasks.try_join_next();
        assert_eq!(ended.is_some_and(|answer| answer.is_ok_and(|answer| answer.is_ok())), cut_off == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_contract_holds_through_all_of_it() {
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(["a:1", "b:1", "c:1"]));
    resolver.reset(["a:1", "b:1", "c:1"]);
    let mesh = mesh(&resolver);
    let users = service(&mesh, &fleet);
    mesh.start().await.unwrap();
    fleet.set("a:1", Behaviour::Failing);
    fleet.at("b:1").hold();
    for _ in 0..100 {
        assert_eq!(users.clone().oneshot(Question).await.unwrap(), "c:1");
    }
    fleet.at("c:1").fail_readiness();
    fleet.at("b:1").release();
    for _ in 0..100 {
        assert_eq!(users.clone().oneshot(Question).await.unwrap(), "b:1");
    }
    assert_eq!(fleet.violations(), Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn every_handle_shares_what_is_known_of_an_endpoint() {
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(["a:1"]));
    resolver.reset(["a:1"]);
    let mesh = mesh(&resolver);
    let (one, other) = (service(&mesh, &fleet), service(&mesh, &fleet));
    mesh.register::<Question, _>("users", other).unwrap();
    mesh.start().await.unwrap();
    fleet.set("a:1", Behaviour::Failing);
    for _ in 0..5 {
        assert!(one.clone().oneshot(Question).await.is_err());
    }
    let sent = fleet.at("a:1").calls();
    let error = mesh.call("users", "ask", Question).await.unwrap_err();
    assert_eq!(
        (error.operation().map(|operation| operation.to_string()), fleet.at("a:1").calls()),
        (Some("ask".into()), sent)
    );
    let status = mesh.status();
    let of_a = &status.services[0].endpoints[0];
    assert_eq!(of_a.circuit.as_ref().map(|circuit| circuit.state.as_str()), Some("open"));
    assert!(!of_a.available);
}

#[tokio::test(start_paused = true)]
async fn a_call_of_the_wrong_kind_is_refused_at_once() {
    #[derive(Debug)]
    struct Other;
    impl MeshRequest for Other {
        type Response = ();
    }
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(["a:1"]));
    resolver.reset(["a:1"]);
    let mesh = mesh(&resolver);
    mesh.register::<Question, _>("users", service(&mesh, &fleet)).unwrap();
    mesh.start().await.unwrap();
    assert_eq!(mesh.call("users", "ask", Other).await.unwrap_err().kind(), ErrorKind::WrongRequestType);
    assert_eq!(mesh.call("nobody", "ask", Question).await.unwrap_err().kind(), ErrorKind::ServiceNotFound);
    assert_eq!(fleet.at("a:1").calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn its_deadline_and_its_callers_leaving_reach_the_endpoint() {
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(["a:1"]));
    resolver.reset(["a:1"]);
    let mesh = mesh(&resolver);
    let users = service(&mesh, &fleet);
    mesh.start().await.unwrap();
    fleet.set("a:1", Behaviour::Hanging);
    let start = now();
    let error = users.operation("ask").oneshot(Question).await.unwrap_err();
    assert_eq!((error.kind(), now().since(start)), (ErrorKind::DeadlineExceeded, Duration::from_secs(15)));
    let mut call = Stepped::new(users.oneshot(Question));
    assert!(call.poll().is_pending());
    drop(call);
    assert_eq!(fleet.at("a:1").dropped(), [DropReason::DeadlineExceeded, DropReason::CallerGone]);
}

/// What is worse than its peers gets no calls for a while, with one table of the configuration, and comes back without a call of its own.
#[tokio::test(start_paused = true)]
async fn an_outlier_is_left_out_and_comes_back() {
    let addresses = ["a:1", "b:1", "c:1", "d:1"];
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::new(addresses));
    resolver.reset(addresses);
    // A circuit that never opens, so that it is the peers who decide; and a small penalty, so that a failing endpoint is asked often enough.
    let config = Config::from_toml(
        r#"
        [services.users]
        resolver = "scripted"
        [services.users.breaker]
        consecutive_failures = 0
        min_calls = 1000000
        [services.users.discovery]
        failure_penalty = "1ms"
        [services.users.outlier]
        "#,
    );
    let mesh =
        Mesh::builder().config(config.unwrap()).resolver("scripted", resolver.clone()).build().unwrap();
    let users = service(&mesh, &fleet);
    mesh.start().await.unwrap();
    settle().await;
    for well in ["a:1", "c:1", "d:1"] {
        fleet.set(well, Behaviour::Slow(ms(10)));
    }
    fleet.set("b:1", Behaviour::Failing);
    let status = |of: &str| {
        let mut endpoints = mesh.status().services.remove(0).endpoints;
        endpoints.remove(endpoints.iter().position(|endpoint| endpoint.id == of).unwrap())
    };
    for _ in 0..1000 {
        assert!(users.clone().oneshot(Question).await.is_ok(), "a retry goes elsewhere");
        if !status("b:1").available {
            break;
        }
    }
    let out = status("b:1");
    assert_eq!((out.reasons, out.available), (vec!["ejected"], false));
    assert!(out.outlier.unwrap().ejected_ms.unwrap() <= 30_000);

    let before = fleet.at("b:1").calls();
    for _ in 0..100 {
        assert!(users.clone().oneshot(Question).await.is_ok());
    }
    assert_eq!(fleet.at("b:1").calls(), before, "no call goes there");
    fleet.set("b:1", Behaviour::Healthy);
    tokio::time::sleep(seconds(41)).await;
    let back = status("b:1");
    assert_eq!((back.available, back.outlier.unwrap().ejected_ms), (true, None));
    for _ in 0..100 {
        assert!(users.clone().oneshot(Question).await.is_ok());
    }
    assert!(fleet.at("b:1").calls() > before);
    assert_eq!(mesh.shutdown(seconds(1)).await.tasks, 2, "discovery, and what looks the set over");
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_file_says_of_hedges_and_the_throttle_is_done() {
    let config = r#"
        [services.users]
        endpoints = ["slow:1", "good:1"]
        [services.users.hedge]
        delay = "100ms"
        [services.users.budget]
        max_tokens = 10
    "#;
    let mesh = Mesh::builder().config(Config::from_toml(config).unwrap()).build().unwrap();
    let fleet = Fleet::<Question>::new(["slow:1", "good:1"]);
    let users = service(&mesh, &fleet);
    mesh.start().await.unwrap();
    fleet.set("slow:1", Behaviour::Hanging);
    let start = now();
    for _ in 0..10 {
        assert_eq!(users.clone().oneshot(Question).await.unwrap(), "good:1");
    }
    let hedges = fleet.at("slow:1").dropped();
    assert!(hedges.iter().all(|reason| *reason == DropReason::HedgeLost), "{hedges:?}");
    assert_eq!(now().since(start), ms(100) * hedges.len() as u32);
    let retry = |mesh: &Mesh| mesh.status().services[0].retry;
    assert_eq!((retry(&mesh).granted, retry(&mesh).milli_tokens), (hedges.len() as u64, Some(10_000)));

    fleet.set("slow:1", Behaviour::Failing);
    fleet.set("good:1", Behaviour::Failing);
    for _ in 0..4 {
        assert!(users.clone().oneshot(Question).await.is_err());
    }
    assert!(retry(&mesh).throttled > 0, "half of the tokens are gone: {:?}", retry(&mesh));
    mesh.shutdown(seconds(1)).await;
}
