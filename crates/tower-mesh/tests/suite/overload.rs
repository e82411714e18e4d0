//! The tables `limit` and `admission`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::admission::{OverloadReason, Overloaded};
use tower_mesh::core::classify::ByResult;
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, CallContext, EndpointHandle, Priority, error};
use tower_mesh::{Config, ErrorKind, Mesh};

use crate::inner::{Query, Rows, query, tasks};

type Database = BoxCloneSyncService<Query, Rows, tower_mesh::Error>;

/// A database that takes a second for each query, and fails those that say so. How many came.
async fn database(tables: &str) -> (Mesh, Database, Arc<AtomicU64>) {
    let config = format!("[services.database]\nendpoints = [\"a:1\", \"b:1\"]\n{tables}");
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let came = Arc::new(AtomicU64::new(0));
    let service = mesh.service("database").unwrap().classify(ByResult).replay(Idempotent).connect({
        let came = came.clone();
        move |_: &EndpointHandle| {
            let came = came.clone();
            service_fn(move |query: Query| {
                came.fetch_add(1, Ordering::Relaxed);
                async move {
                    sleep(Duration::from_secs(1)).await;
                    if query.0 == "fail" { Err(BoxError::from("failed")) } else { Ok(Rows(query.0)) }
                }
            })
        }
    });
    mesh.start().await.unwrap();
    tasks().await;
    (mesh, BoxCloneSyncService::new(service), came)
}

fn reason(error: tower_mesh::Error) -> OverloadReason {
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert_eq!(error.to_string(), "service database: overloaded");
    let error: BoxError = error.into();
    error::find::<Overloaded>(&*error).unwrap().reason()
}

#[tokio::test(start_paused = true)]
async fn one_line_turns_a_limit_on_and_what_is_too_much_is_refused_at_once() {
    let (mesh, database, came) = database("[services.database.limit]").await;
    let calls: Vec<_> = (0..25).map(|_| tokio::spawn(database.clone().oneshot(query("a")))).collect();
    tasks().await;
    let limit = mesh.status().services[0].limit.unwrap();
    assert_eq!((limit.limit, limit.in_flight, limit.refused_normal), (20, 20, 5));
    let began = Instant::now();
    let mut refused = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(rows) => assert_eq!(rows.0, "a"),
            Err(error) => {
                assert_eq!(reason(error), OverloadReason::Limit);
                refused += 1;
            }
        }
    }
    assert_eq!((refused, came.load(Ordering::Relaxed)), (5, 20), "nothing was sent, and nothing tried again");
    assert!(began.elapsed() < Duration::from_millis(1100));
    assert_eq!(mesh.status().services[0].limit.unwrap().in_flight, 0);
    let endpoints = &mesh.status().services[0].endpoints;
    assert_eq!(endpoints.iter().map(|endpoint| endpoint.failed + endpoint.abandoned).sum::<u64>(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_the_tables_everything_is_admitted() {
    let (mesh, database, came) = database("").await;
    let calls: Vec<_> = (0..500).map(|_| tokio::spawn(database.clone().oneshot(query("a")))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(came.load(Ordering::Relaxed), 500);
    assert!(mesh.status().services[0].limit.is_none() && mesh.status().services[0].admission.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_retry_keeps_the_place_of_its_call_and_waiting_is_within_the_deadline() {
    let tables = "limit = { algorithm = \"fixed\", initial = 1, max_waiting = 1, max_wait = \"60s\" }\n\
                  deadline.timeout = \"3s\"\nretry = { max_attempts = 2, base_delay = \"500ms\", jitter = \"none\" }";
    let (mesh, database, came) = database(tables).await;
    let first = tokio::spawn(database.clone().oneshot(query("fail")));
    tasks().await;
    let second = tokio::spawn(database.clone().oneshot(query("a")));
    sleep(Duration::from_millis(1200)).await;
    let limit = mesh.status().services[0].limit.unwrap();
    assert_eq!((limit.in_flight, limit.waiting), (1, 1), "between two attempts the place is held");
    assert_eq!(reason(database.clone().oneshot(query("a")).await.unwrap_err()), OverloadReason::Limit);
    assert_eq!(first.await.unwrap().unwrap_err().kind(), ErrorKind::Upstream);
    // It waited 2.5 s of its 3.
    assert_eq!(second.await.unwrap().unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(came.load(Ordering::Relaxed), 3);
    let limit = mesh.status().services[0].limit.unwrap();
    assert_eq!((limit.in_flight, limit.waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_priority_of_the_work_around_a_call_counts() {
    let tables = "limit = { algorithm = \"fixed\", initial = 4, normal_share = 0.75, sheddable_share = 0.5 }\n\
                  operations.report.priority = \"sheddable\"";
    let (mesh, database, _) = database(tables).await;
    mesh.register::<Query, _>("database", database.clone()).unwrap();
    let _two: Vec<_> = (0..2).map(|_| tokio::spawn(database.clone().oneshot(query("a")))).collect();
    tasks().await;
    for (context, answers) in [
        (CallContext::new().with_priority(Priority::Sheddable), false),
        (CallContext::around_calls().with_priority(Priority::Sheddable), false),
        (CallContext::new(), true),
        (CallContext::new().with_priority(Priority::Critical), true),
        (CallContext::new(), false),
    ] {
        let mut context = context;
        let call = context.lend(|| {
            let mut database = database.clone();
            tower::Service::call(&mut database, query("a"))
        });
        let call = tokio::spawn(call);
        tasks().await;
        assert_eq!(!call.is_finished(), answers, "{context:?}");
    }
    for (operation, reason) in [("report", Priority::Sheddable), ("query", Priority::Normal)] {
        let _ = mesh.call("database", operation, query("a")).await.map_err(|error| {
            let error: BoxError = error.into();
            assert_eq!(error::find::<Overloaded>(&*error).unwrap().priority(), reason);
        });
    }
    let limit = mesh.status().services[0].limit.unwrap();
    let refused = (limit.refused_sheddable, limit.refused_normal, limit.refused_critical);
    assert_eq!((limit.in_flight, refused), (4, (3, 2, 0)));
}

#[tokio::test(start_paused = true)]
async fn too_few_successes_make_for_refusals() {
    let tables = "admission = { min_calls = 20 }\nretry.max_attempts = 1\nbreaker.consecutive_failures = 0\nbreaker.min_calls = 1000000";
    let (mesh, database, came) = database(tables).await;
    let mut refused = 0;
    for _ in 0..200 {
        let error = database.clone().oneshot(query("fail")).await.unwrap_err();
        if error.kind() == ErrorKind::Overloaded {
            assert_eq!(reason(error), OverloadReason::SuccessRate);
            refused += 1;
        }
    }
    let admission = mesh.status().services[0].admission.unwrap();
    assert_eq!((admission.refused, admission.succeeded), (refused, 0));
    assert!(refused > 60 && came.load(Ordering::Relaxed) == 200 - refused, "{refused}");
    assert_eq!(admission.rejection, 0.8);
}

#[tokio::test(start_paused = true)]
async fn a_reload_turns_a_limit_on_where_there_was_none() {
    let (mesh, database, _) = database("").await;
    let before = tokio::spawn(database.clone().oneshot(query("a")));
    tasks().await;
    let limited =
        "[services.database]\nendpoints = [\"a:1\", \"b:1\"]\nlimit = { algorithm = \"fixed\", initial = 1 }";
    let reloaded = mesh.reload(Config::from_toml(limited).unwrap()).unwrap();
    assert_eq!(reloaded.changed()["database"], ["limit"]);
    let counted = tokio::spawn(database.clone().oneshot(query("a")));
    tasks().await;
    let refused = database.clone().oneshot(query("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert_eq!(mesh.status().services[0].limit.unwrap().in_flight, 1, "what began before is not counted");
    before.await.unwrap().unwrap();
    counted.await.unwrap().unwrap();
    assert_eq!(mesh.status().services[0].limit.unwrap().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_and_takes_away_what_was_there() {
    let (mesh, database, _) = database("limit = { algorithm = \"fixed\", initial = 1 }").await;
    let _under_way = tokio::spawn(database.clone().oneshot(query("a")));
    tasks().await;
    let refused = database.clone().oneshot(query("a")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    let with = |tables: &str| {
        Config::from_toml(&format!("[services.database]\nendpoints = [\"a:1\", \"b:1\"]\n{tables}")).unwrap()
    };
    let reloaded =
        mesh.reload(with("limit = { algorithm = \"fixed\", initial = 2 }\nadmission = {}")).unwrap();
    assert_eq!(reloaded.changed()["database"], ["limit", "admission"]);
    database.clone().oneshot(query("a")).await.unwrap();
    assert!(mesh.status().services[0].admission.is_some());
    mesh.reload(with("")).unwrap();
    assert!(mesh.status().services[0].limit.is_none());
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(database.clone().oneshot(query("a")))).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
