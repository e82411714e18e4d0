//! Every kind of error a call can end with, in bounded time, and none that tells a caller where things are.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Service, ServiceExt as _};
use tower_mesh::core::error::find;
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::discovery::NoEndpoints;
use tower_mesh::{ErrorKind, Mesh};

use crate::inner::{Query, Rows, Says, Source, query};

/// What the client says and only an operator may know.
const SENTINEL: &str = "password=hunter2 at 10.9.8.7";
const ADDRESS: &str = "db-10-9-8-7.internal:5432";

/// A client of one endpoint that does what its kind says.
#[derive(Clone, Copy)]
enum Client {
    Fails,
    Hangs,
    IsNeverReady,
}

impl Service<Query> for Client {
    type Response = Rows;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Rows, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::IsNeverReady => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, _request: Query) -> Self::Future {
        match self {
            Self::Hangs => Box::pin(std::future::pending()),
            _ => Box::pin(async { Err(SENTINEL.into()) }),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_end_is_typed_bounded_and_tells_no_address() {
    let ms = Duration::from_millis;
    // Which service, by which client, ends how, within what time.
    let cases = [
        ("fails", Client::Fails, ErrorKind::Upstream, ms(100)),
        ("breaks", Client::Fails, ErrorKind::NoEndpoints, ms(100)),
        ("hangs", Client::Hangs, ErrorKind::AttemptTimedOut, ms(300)),
        ("late", Client::Hangs, ErrorKind::DeadlineExceeded, ms(100)),
        ("busy", Client::IsNeverReady, ErrorKind::NotReady, ms(2100)),
        ("unresolved", Client::Fails, ErrorKind::NoEndpoints, ms(2100)),
        ("broken", Client::Fails, ErrorKind::NoEndpoints, ms(2100)),
        ("unknown", Client::Fails, ErrorKind::NoEndpoints, ms(100)),
    ];
    let mut config = "[defaults.retry]\nbase_delay = \"1ms\"\nmax_attempts = 2\nready_timeout = \"1s\"\n\
                      [defaults.discovery]\nready_timeout = \"1s\"\n"
        .to_owned();
    for (name, more) in [
        ("fails", ""),
        ("breaks", "breaker.consecutive_failures = 1"),
        ("hangs", "retry.attempt_timeout = \"100ms\""),
        ("late", "deadline.timeout = \"100ms\""),
        ("busy", ""),
    ] {
        config += &format!("[services.{name}]\nendpoints = [\"{ADDRESS}\"]\n{more}\n");
    }
    for name in ["unresolved", "broken", "unknown"] {
        config += &format!("[services.{name}]\nresolver = \"{name}\"\nrequired = false\n");
    }
    let streams = std::sync::Arc::default();
    let mesh = Mesh::builder()
        .config_toml(config)
        .resolver("unresolved", Source::new(&streams, Says::Nothing))
        .resolver("broken", Source::new(&streams, Says::Error(SENTINEL)))
        .resolver("unknown", Source::new(&streams, Says::NotFound))
        .build()
        .unwrap();
    mesh.start().await.unwrap();

    for (name, client, kind, bound) in cases {
        let service =
            mesh.service(name).unwrap().replay(Idempotent).connect(move |_: &EndpointHandle| client);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let began = Instant::now();
            let error = service.operation("query").oneshot(query("SELECT 1")).await.unwrap_err();
            assert!(began.elapsed() <= bound, "{name} took {:?}", began.elapsed());
            let text = error.to_string();
            assert!(text.starts_with(&format!("service {name}, operation query: ")), "{text}");
            for secret in ["hunter2", "10.9.8.7", "10-9-8-7", "internal", "5432"] {
                assert!(!text.contains(secret), "{text}");
            }
            kinds.push(error.kind());
        }
        assert_eq!(kinds.last(), Some(&kind), "{name}: {kinds:?}");
    }
    mesh.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_from_outside_cannot_forge_a_line_of_a_log() {
    let mesh = Mesh::builder().build().unwrap();
    let error = mesh.call("users\nERROR all is lost", "a\tb", query("")).await.unwrap_err();
    assert_eq!(error.to_string(), "service users\\nERROR all is lost, operation a\\tb: no such service");
    assert_eq!(error.service(), "users\nERROR all is lost");
}

#[tokio::test(start_paused = true)]
async fn what_went_wrong_in_a_service_behind_is_upstream_of_the_one_called() {
    let config = "[services.front]\nendpoints = [\"front:1\"]\nretry.max_attempts = 1\n\
                  [services.closure]\nendpoints = [\"closure:1\"]\n\
                  [services.behind]\nresolver = \"behind\"\nrequired = false";
    let source = Source::new(&std::sync::Arc::default(), Says::NotFound);
    let mesh = Mesh::builder().config_toml(config).resolver("behind", source).build().unwrap();
    let behind = mesh.service("behind").unwrap().connect(|_: &EndpointHandle| Client::Fails);
    mesh.register::<Query, _>("behind", behind.clone()).unwrap();
    mesh.register::<Query, _>("closure", behind.clone()).unwrap();
    let front = mesh.service("front").unwrap().connect(move |_: &EndpointHandle| behind.clone());
    mesh.register::<Query, _>("front", front).unwrap();
    mesh.start().await.unwrap();
    let error = mesh.call("behind", "query", query("")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoints);
    for name in ["front", "closure"] {
        let error = mesh.call(name, "query", query("")).await.unwrap_err();
        assert_eq!((error.kind(), error.service()), (ErrorKind::Upstream, name));
        let cause = find::<NoEndpoints>(&error).unwrap();
        assert_eq!(cause.service().as_str(), "behind", "the operator sees it all");
    }
}
