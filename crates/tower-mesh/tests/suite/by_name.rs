//! Calls by name: of plain struct types, with the operation's name, from many tasks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};
use tower::service_fn;
use tower::util::MapRequestLayer;
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{CallContext, EndpointHandle};
use tower_mesh::{ErrorKind, Mesh, MeshRequest};

use crate::inner::{Query, Rows, query};

fn mesh() -> Mesh {
    let config = "[services.database]\nendpoints = [\"db-1:5432\", \"db-2:5432\"]\nretry.base_delay = \"10ms\"\n\
                  [services.silent]\nendpoints = [\"db-3:5432\"]";
    Mesh::builder().config_toml(config).build().unwrap()
}

async fn echo(query: Query) -> Result<Rows, std::io::Error> {
    Ok(Rows(query.0))
}

struct Ping;
impl MeshRequest for Ping {
    type Response = ();
}

#[tokio::test(start_paused = true)]
async fn who_is_not_there_is_told_at_once() {
    let mesh = mesh();
    mesh.register::<Query, _>("database", service_fn(echo)).unwrap();
    for started in [false, true] {
        if started {
            mesh.start().await.unwrap();
        }
        let now = Instant::now();
        let errors = [
            mesh.service("users").unwrap_err(),
            mesh.register::<Query, _>("users", service_fn(echo)).unwrap_err(),
            mesh.call("users", "query", query("SELECT 1")).await.unwrap_err(),
            mesh.call("silent", "query", query("SELECT 1")).await.unwrap_err(),
        ];
        assert_eq!(Instant::now(), now, "no time passed");
        let texts = errors.each_ref().map(ToString::to_string);
        assert!(
            errors.iter().all(|error| error.kind() == ErrorKind::ServiceNotFound && error.attempts() == 0)
        );
        assert_eq!(texts[0], "service users: no such service");
        assert_eq!(texts[2], "service users, operation query: no such service");
        assert!(texts[3].contains("nothing is registered for it"), "{}", texts[3]);
        assert_eq!(errors[2].operation().unwrap().as_str(), "query");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_type_of_request_names_both_types() {
    let mesh = mesh();
    mesh.register::<Query, _>("database", service_fn(echo)).unwrap();
    let error = mesh.call("database", "ping", Ping).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongRequestType);
    let text = error.to_string();
    for name in [std::any::type_name::<Query>(), std::any::type_name::<Ping>()] {
        assert!(text.contains(name), "{name}: {text}");
    }
    // Two types of requests for one service stand side by side.
    mesh.register::<Ping, _>("database", service_fn(|_: Ping| async { Ok::<_, std::io::Error>(()) }))
        .unwrap();
    mesh.start().await.unwrap();
    mesh.call("database", "ping", Ping).await.unwrap();
    assert_eq!(mesh.call("database", "query", query("a")).await.unwrap(), Rows("a".into()));
}

#[tokio::test(start_paused = true)]
async fn before_the_start_and_after_the_end_calls_are_refused_at_once() {
    let mesh = mesh();
    // A closure that knows nothing of the mesh, and the mesh's own layers.
    mesh.register::<Query, _>("database", service_fn(echo)).unwrap();
    let layers = mesh.service("silent").unwrap().connect(|_: &EndpointHandle| service_fn(echo));
    mesh.register::<Query, _>("silent", layers.clone()).unwrap();
    let all = || async {
        let now = Instant::now();
        let answers = [
            mesh.call("database", "query", query("a")).await,
            mesh.call("silent", "query", query("a")).await,
            tower::ServiceExt::oneshot(layers.clone(), query("a")).await,
        ];
        assert_eq!(Instant::now(), now, "no time passed");
        answers.map(|answer| answer.map_err(|error| error.kind()))
    };
    assert_eq!(all().await, [(); 3].map(|()| Err(ErrorKind::NotStarted)));
    mesh.start().await.unwrap();
    assert_eq!(all().await, [(); 3].map(|()| Ok(Rows("a".into()))));
    mesh.shutdown(Duration::ZERO).await;
    assert_eq!(all().await, [(); 3].map(|()| Err(ErrorKind::ShuttingDown)));
}

#[tokio::test(start_paused = true)]
async fn the_operation_reaches_the_layers_around_an_endpoint_and_the_errors() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mesh = mesh();
    let told = seen.clone();
    let look = move |query: Query| {
        let operation = CallContext::with(|call| call.operation()).flatten();
        told.lock().unwrap().push(operation.map(|operation| operation.as_str()));
        query
    };
    let service = mesh
        .service("database")
        .unwrap()
        .replay(Idempotent)
        .per_endpoint(move |_: &EndpointHandle| MapRequestLayer::new(look.clone()))
        .connect(|_: &EndpointHandle| {
            service_fn(|query: Query| async move {
                sleep(Duration::from_millis(1)).await;
                if query.0 == "broken" { Err(std::io::Error::other("broken")) } else { Ok(Rows(query.0)) }
            })
        });
    mesh.register::<Query, _>("database", service.clone()).unwrap();
    mesh.start().await.unwrap();

    mesh.call("database", "select", query("a")).await.unwrap();
    tower::ServiceExt::oneshot(service.operation("insert"), query("a")).await.unwrap();
    tower::ServiceExt::oneshot(service, query("a")).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [Some("select"), Some("insert"), None]);

    seen.lock().unwrap().clear();
    let error = mesh.call("database", "delete", query("broken")).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Upstream, 3));
    assert_eq!(error.operation().unwrap().as_str(), "delete");
    assert_eq!(error.to_string(), "service database, operation delete: the request failed after 3 attempts");
    assert_eq!(*seen.lock().unwrap(), [Some("delete"); 3], "in each attempt");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_registered_closure_is_an_upstream_error() {
    let mesh = mesh();
    let broken = |_: Query| async { Err::<Rows, _>(std::io::Error::other("sentinel at 10.9.8.7")) };
    mesh.register::<Query, _>("database", service_fn(broken)).unwrap();
    mesh.start().await.unwrap();
    let error = mesh.call("database", "query", query("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Upstream);
    assert_eq!(error.to_string(), "service database, operation query: the request failed");
    let cause = tower_mesh::core::error::find::<std::io::Error>(&error)
        .expect("the operator finds the client's error");
    assert!(cause.to_string().contains("sentinel"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_call_at_once_and_each_gets_its_own_answer() {
    let mesh = mesh();
    let service = mesh.service("database").unwrap().replay(Idempotent).connect(|_: &EndpointHandle| {
        service_fn(|query: Query| async move {
            tokio::task::yield_now().await;
            echo(query).await
        })
    });
    mesh.register::<Query, _>("database", service).unwrap();
    mesh.start().await.unwrap();
    let calls = (0..64).map(|task| {
        let mesh = mesh.clone();
        tokio::spawn(async move {
            for call in 0..50 {
                let text = format!("{task}/{call}");
                assert_eq!(mesh.call("database", "query", query(&text)).await.unwrap(), Rows(text));
            }
        })
    });
    join_all(calls).await.into_iter().for_each(|task| task.unwrap());
    let status = mesh.status();
    let database = status.services.iter().find(|service| service.name == "database").unwrap();
    let succeeded = database.endpoints.iter().map(|endpoint| endpoint.succeeded).collect::<Vec<_>>();
    assert_eq!(succeeded.iter().sum::<u64>(), 64 * 50);
    assert!(succeeded.iter().all(|&calls| calls > 64 * 50 / 5), "both had their share: {succeeded:?}");
    let report = mesh.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.cut_off, report.tasks), (0, 2));
}
