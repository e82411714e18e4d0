//! Another configuration for a mesh that runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tower::{ServiceExt as _, service_fn};
use tower_mesh::breaker::State;
use tower_mesh::config::ConfigError;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::{Config, ErrorKind, EventKind, Mesh};

use crate::inner::{Query, Rows, query, tasks};

/// A database whose calls fail, wait to be let go, or succeed, as the query says.
fn database(
    mesh: &Mesh,
    name: &str,
    go: &Arc<Notify>,
) -> tower::util::BoxCloneSyncService<Query, Rows, tower_mesh::Error> {
    let go = go.clone();
    let service = mesh.service(name).unwrap().connect(move |endpoint: &EndpointHandle| {
        let (go, at) = (go.clone(), endpoint.endpoint().address().to_owned());
        service_fn(move |query: Query| {
            let (go, at) = (go.clone(), at.clone());
            async move {
                match query.0.as_str() {
                    "wait" => go.notified().await,
                    "fail" => return Err(BoxError::from("failed")),
                    _ => {}
                }
                Ok(Rows(at))
            }
        })
    });
    tower::util::BoxCloneSyncService::new(service)
}

fn config(text: &str) -> Config {
    Config::from_toml(text).unwrap()
}

const BEFORE: &str =
    "[services.database]\nendpoints = [\"a:1\"]\nretry.max_attempts = 1\nbreaker.consecutive_failures = 3";

#[tokio::test(start_paused = true)]
async fn what_changes_is_in_force_at_once_and_nothing_learned_is_lost() {
    let go = Arc::new(Notify::new());
    let mesh = Mesh::builder().config(config(BEFORE)).build().unwrap();
    let database = database(&mesh, "database", &go);
    mesh.start().await.unwrap();
    let under_way = tokio::spawn(database.clone().oneshot(query("wait")));
    tasks().await;
    database.clone().oneshot(query("fail")).await.unwrap_err();

    let next = "[services.database]\nendpoints = [\"a:1\", \"b:1\"]\nretry.max_attempts = 1\nbreaker.consecutive_failures = 2\n\
                budget.ratio = 0.5\ndeadline.timeout = \"3s\"\nrequired = false";
    let reloaded = mesh.reload(config(next)).unwrap();
    let changed = &reloaded.changed()["database"];
    assert_eq!(*changed, ["endpoints", "required", "deadline", "budget", "breaker"]);
    assert!(reloaded.added().is_empty() && reloaded.removed().is_empty());
    tasks().await;

    let status = mesh.status();
    assert_eq!(status.config.reloads, 1);
    let endpoints = &status.services[0].endpoints;
    assert_eq!(endpoints.iter().map(|endpoint| &*endpoint.id).collect::<Vec<_>>(), ["a:1", "b:1"]);
    let a = &endpoints[0];
    assert_eq!(
        (a.started, a.failed, a.in_flight),
        (2, 1, 1),
        "the record of an endpoint that stays is the same"
    );

    // One failure was in its row before: with the new limit the next one opens it.
    while mesh.circuits().iter().all(|(_, circuit)| circuit.state() == State::Closed) {
        database.clone().oneshot(query("fail")).await.unwrap_err();
    }
    let failed: u64 = mesh.status().services[0].endpoints.iter().map(|endpoint| endpoint.failed).sum();
    assert!((2..=3).contains(&failed), "{failed}: at most one of them was the other endpoint's first");

    go.notify_waiters();
    assert_eq!(under_way.await.unwrap().unwrap().0, "a:1", "what was under way goes on as it began");
    let slow = tokio::spawn(database.clone().oneshot(query("wait")));
    let kind = slow.await.unwrap().unwrap_err().kind();
    assert_eq!(kind, ErrorKind::DeadlineExceeded, "by the new deadline");
    assert!(mesh.reload(config(next)).unwrap().is_empty());
    assert_eq!(mesh.status().config.reloads, 1, "the same again is no news");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_new_is_started_and_one_that_is_missing_lets_its_calls_end() {
    let go = Arc::new(Notify::new());
    let mesh = Mesh::builder().config(config(BEFORE)).build().unwrap();
    let old = database(&mesh, "database", &go);
    mesh.start().await.unwrap();
    let under_way = tokio::spawn(old.clone().oneshot(query("wait")));
    tasks().await;

    let mut events = mesh.events();
    let reloaded = mesh.reload(config("[services.orders]\nendpoints = [\"o:1\"]")).unwrap();
    mesh.reload(config("[services.orders]\nresolver = \"none\"")).unwrap_err();
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = events.next().await.unwrap().unwrap();
        if let EventKind::Reloaded { .. } | EventKind::ReloadRefused { .. } = &event.kind {
            told.push(serde_json::to_value(&*event).unwrap());
        }
    }
    assert_eq!((&told[0]["added"][0], &told[0]["removed"][0]), (&"orders".into(), &"database".into()));
    assert!(told[1]["error"].as_str().unwrap().contains("services.orders"), "{told:?}");
    assert_eq!(reloaded.added(), ["orders".parse().unwrap()]);
    assert_eq!(reloaded.removed(), ["database".parse().unwrap()]);
    let orders = database(&mesh, "orders", &go);
    assert_eq!(orders.oneshot(query("")).await.unwrap().0, "o:1");

    assert_eq!(mesh.service("database").unwrap_err().kind(), ErrorKind::ServiceNotFound);
    assert_eq!(old.oneshot(query("")).await.unwrap_err().kind(), ErrorKind::ServiceNotFound);
    let shutdown = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.shutdown(Duration::from_secs(60)).await }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!shutdown.is_finished(), "the shutdown waits for the calls of what was taken out too");
    go.notify_waiters();
    assert_eq!(under_way.await.unwrap().unwrap().0, "a:1");
    assert_eq!(shutdown.await.unwrap().cut_off, 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_wrong_or_cannot_change_is_told_in_one_answer_and_nothing_changes() {
    let before = "[services.database]\nendpoints = [\"a:1\"]\n[services.users]\nresolver = \"list\"\nhealth.path = \"/\"";
    let list = tower_mesh::discovery::FixedList::new(["u:1".parse().unwrap()]).unwrap();
    let mesh = Mesh::builder().config(config(before)).resolver("list", list).build().unwrap();
    mesh.start().await.unwrap();
    let next = "[services.database]\nresolver = \"list\"\ndiscovery.slow_start_window = \"30s\"\nbudget.ttl = \"3s\"\n[services.database.outlier]\n\
                [services.users]\nresolver = \"list\"\nhealth.path = \"/other\"\nretry.max_attempts = 7\n\
                [services.orders]\nresolver = \"none\"";
    let refused = mesh.reload(config(next)).unwrap_err();
    let fields: Vec<_> = refused.mistakes().iter().map(|mistake| mistake.field()).collect();
    assert_eq!(
        fields,
        [
            "services.database.source",
            "services.database.discovery",
            "services.database.outlier",
            "services.database.budget.ttl",
            "services.orders.resolver",
            "services.users.health",
        ]
    );
    let status = mesh.status();
    assert_eq!((status.config.reloads, status.config.refused), (0, 1));
    assert!(status.config.last_error.unwrap().contains("services.database.source"));
    assert_eq!(status.services.len(), 2);
    assert!(mesh.reload(config(before)).unwrap().is_empty(), "all is as it was");
}

#[cfg(feature = "file")]
#[tokio::test]
async fn a_file_is_followed_and_a_wrong_one_leaves_the_old_in_force() {
    let directory = std::env::temp_dir().join(format!("mesh-follow-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("mesh.toml");
    let write = |text: &str| {
        // As editors do: a new file, renamed over the old one.
        let new = directory.join("mesh.toml~");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    write(BEFORE);
    let mesh = Mesh::builder().config_path(&path).follow_config().build().unwrap();
    mesh.start().await.unwrap();
    let until = async |done: &dyn Fn(&tower_mesh::MeshStatus) -> bool| {
        let waited = async {
            while !done(&mesh.status()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it is seen in time");
    };
    write("[services.database]\nendpoints = [\"a:1\", \"b:1\"]");
    until(&|status| status.services[0].endpoints.len() == 2).await;
    write("[services.database]\nendpoints = []\nretires = 3");
    until(&|status| status.config.refused == 1).await;
    let status = mesh.status();
    let told = status.config.last_error.unwrap();
    assert!(told.contains("services.database.retires") && told.contains("endpoints"), "{told}");
    assert_eq!(status.services[0].endpoints.len(), 2);
    write("[services.database]\nendpoints = [\"c:1\"]");
    until(&|status| status.config.last_error.is_none() && status.services[0].endpoints.len() == 1).await;
    let report = mesh.shutdown(Duration::ZERO).await;
    assert_eq!(report.cut_off, 0);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reload_from_within_a_reload_is_refused_and_hangs_nowhere() {
    let mesh = Mesh::builder().config(config(BEFORE)).build().unwrap();
    let go = Arc::new(Notify::new());
    let database = database(&mesh, "database", &go);
    mesh.start().await.unwrap();
    database.clone().oneshot(query("")).await.unwrap();
    let (_, circuit) = mesh.circuits().remove(0);
    let now = tower_mesh::core::Tick::of(tokio::time::Instant::now().into_std());
    circuit.trip(now);
    assert!(circuit.half_open(now));
    let answer = Arc::new(std::sync::Mutex::new(None));
    let (within, told) = (mesh.clone(), answer.clone());
    circuit.on_transition(move |_| {
        *told.lock().unwrap() = Some(within.reload(config(BEFORE)));
    });
    // Two of the trial calls have succeeded: with the permits that the new configuration gives, that is all of them, and it closes.
    for _ in 0..2 {
        let permit = circuit.acquire(now).unwrap();
        permit.finish(tower_mesh::core::classify::Outcome::Success, Duration::ZERO, now);
    }
    mesh.reload(config(&format!("{BEFORE}\nbreaker.half_open_permits = 2"))).unwrap();
    assert_eq!(circuit.state(), State::Closed);
    assert!(matches!(answer.lock().unwrap().take(), Some(Err(ConfigError::Busy))));
    mesh.reload(config(BEFORE)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_comes_back_is_another_one_and_of_the_old_one_nothing_stays() {
    let go = Arc::new(Notify::new());
    let held = Arc::new(());
    let mesh = Mesh::builder().config(config(BEFORE)).build().unwrap();
    let of_old = held.clone();
    let old = mesh.service("database").unwrap().connect(move |_: &EndpointHandle| {
        let _client = of_old.clone();
        service_fn(|Query(text): Query| std::future::ready(Ok::<_, BoxError>(Rows(text))))
    });
    mesh.register::<Query, _>("database", old).unwrap();
    mesh.start().await.unwrap();
    mesh.call("database", "get", query("x")).await.unwrap();
    assert!(Arc::strong_count(&held) > 1);

    let components = |mesh: &Mesh| mesh.status().components.len();
    assert_eq!(components(&mesh), 1);
    mesh.reload(config("")).unwrap();
    assert_eq!(components(&mesh), 0);
    tasks().await;
    assert_eq!(Arc::strong_count(&held), 1, "with the service went what its user's client held");
    mesh.reload(config(BEFORE)).unwrap();
    let error = mesh.call("database", "get", query("x")).await.unwrap_err();
    assert!(error.to_string().contains("nothing is registered"), "{error}");
    mesh.register::<Query, _>("database", database(&mesh, "database", &go)).unwrap();
    assert_eq!(mesh.call("database", "get", query("x")).await.unwrap().0, "a:1");
    assert_eq!(components(&mesh), 1);
}
