//! What is otherwise for one operation, or for one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::{ServiceExt as _, service_fn};
use tower_mesh::core::{BoxError, CallContext, CallOptions, EndpointHandle};
use tower_mesh::{Config, ErrorKind, Mesh};

use crate::inner::{Query, Rows, query};

const CONFIG: &str = r#"
    [services.database]
    endpoints = ["a:1"]
    retry = { max_attempts = 3, base_delay = "1ms", max_delay = "1ms" }
    breaker.consecutive_failures = 0
    breaker.min_calls = 1000
    deadline.timeout = "10s"
    [services.database.operations.report]
    timeout = "60s"
    max_attempts = 1
    [services.database.operations.read]
    idempotent = true
    max_attempts = 5
"#;

type Database = tower::util::BoxCloneSyncService<Query, Rows, tower_mesh::Error>;

/// A mesh whose database fails, or takes as long as the query says; and how many requests it got.
async fn mesh() -> (Mesh, impl Fn(&str) -> Database, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let mesh = Mesh::builder().config_toml(CONFIG).build().unwrap();
    let database = mesh.service("database").unwrap().connect(move |_: &EndpointHandle| {
        let sent = counter.clone();
        service_fn(move |Query(text): Query| {
            sent.fetch_add(1, Ordering::Relaxed);
            async move {
                match text.parse() {
                    Ok(seconds) => sleep(Duration::from_secs(seconds)).await,
                    Err(_) => return Err(BoxError::from("failed")),
                }
                Ok(Rows(text))
            }
        })
    });
    mesh.register::<Query, _>("database", database.clone()).unwrap();
    mesh.start().await.unwrap();
    let of = move |operation: &str| Database::new(database.operation(operation));
    (mesh, of, sent)
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_its_own_time_attempts_and_leave_to_be_done_twice() {
    let (mesh, of, sent) = mesh().await;
    assert_eq!(
        of("report").oneshot(query("30")).await.unwrap(),
        Rows("30".into()),
        "longer than the service's"
    );
    let began = Instant::now();
    let error = of("other").oneshot(query("30")).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::DeadlineExceeded, Duration::from_secs(10)));

    for (operation, expected) in [("report", 1), ("other", 1), ("read", 5)] {
        let before = sent.load(Ordering::Relaxed);
        of(operation).oneshot(query("fail")).await.unwrap_err();
        assert_eq!(sent.load(Ordering::Relaxed) - before, expected, "{operation}");
        mesh.call("database", operation, query("fail")).await.unwrap_err();
        assert_eq!(sent.load(Ordering::Relaxed) - before, 2 * expected, "{operation} by name");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_call_asks_for_stands_above_and_a_reload_changes_what_stands_below() {
    let (mesh, of, sent) = mesh().await;
    let with = async |options: CallOptions, operation: &str| {
        let before = sent.load(Ordering::Relaxed);
        let mut call = CallContext::new().with_options(options);
        let mut service = of(operation);
        std::future::poll_fn(|cx| service.poll_ready_unpin(cx)).await;
        let mut future = Box::pin(call.lend(|| tower::Service::call(&mut service, query("fail"))));
        std::future::poll_fn(|cx| call.lend(|| future.as_mut().poll(cx))).await.unwrap_err();
        sent.load(Ordering::Relaxed) - before
    };
    assert_eq!(with(CallOptions::new().max_attempts(2), "read").await, 2);
    assert_eq!(with(CallOptions::new().idempotent(true), "other").await, 3);
    assert_eq!(with(CallOptions::new().idempotent(false), "read").await, 1);

    let next = CONFIG.replace("max_attempts = 5", "max_attempts = 4");
    let reloaded = mesh.reload(Config::from_toml(&next).unwrap()).unwrap();
    assert_eq!(reloaded.changed()["database"], ["operations"]);
    assert_eq!(with(CallOptions::new(), "read").await, 4);
}

trait PollReady {
    fn poll_ready_unpin(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()>;
}

impl PollReady for Database {
    fn poll_ready_unpin(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        tower::Service::<Query>::poll_ready(self, cx).map(|ready| ready.unwrap())
    }
}
