//! axum: a gateway in front of services of the mesh, and layers of ours around handlers.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_mesh::breaker::{BreakerConfig, BreakerLayer};
use tower_mesh::http::{Classifier, IncomingLayer, ReplayBody};
use tower_mesh::retry::{DeadlineConfig, DeadlineLayer};
use tower_mesh::{Answer, Error, HttpService, Mesh};

use crate::backend::{Backend, Mood};

type Http = Client<HttpConnector, ReplayBody<Body>>;

#[derive(Clone)]
struct App {
    mesh: Mesh,
    client: Http,
    users: HttpService<Http>,
}

/// Forwards to the one service that the application holds.
async fn users(State(app): State<App>, request: Request<Body>) -> Result<Response, Error> {
    let answer = app.users.oneshot(request.map(ReplayBody::new)).await?;
    Ok(answer.into_response())
}

/// Forwards to whichever service the path names.
async fn by_name(
    State(app): State<App>,
    Path(name): Path<String>,
    mut request: Request<Body>,
) -> Result<Response, Error> {
    *request.uri_mut() = "/".parse().unwrap();
    let service = app.mesh.service(&name)?.http(app.client);
    Ok(service.oneshot(request.map(ReplayBody::new)).await?.into_response())
}

fn app(backend: &Backend, more: &str) -> (Mesh, Router) {
    let config = format!(
        "[services.users]\nendpoints = [\"{}\"]\nretry.base_delay = \"1ms\"\nretry.max_delay = \"2ms\"\n{more}",
        backend.address
    );
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let users_service = mesh.service("users").unwrap().http(client.clone());
    let app = App { mesh: mesh.clone(), client, users: users_service };
    let router = Router::new()
        .route("/readyz", get(|State(app): State<App>| async move { app.mesh.readiness() }))
        .route("/", any(users))
        .route("/by-name/{name}", any(by_name))
        .with_state(app)
        .layer(IncomingLayer::new());
    (mesh, router)
}

async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, Option<u64>, String) {
    let (head, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let wait = head.headers.get("retry-after").map(|wait| wait.to_str().unwrap().parse().unwrap());
    let text = body.collect().await.unwrap().to_bytes();
    (head.status, wait, String::from_utf8(text.to_vec()).unwrap())
}

fn to(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_gateway_forwards_and_says_what_went_wrong_in_http() {
    let backend = Backend::start(Mood::Well).await;
    let (mesh, router) = app(&backend, "breaker.consecutive_failures = 3\nbreaker.reset_timeout = \"1h\"");
    let (status, _, text) = ask(&router, to("/readyz")).await;
    assert_eq!(status, 503);
    let ready: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ready["ready"], false);
    assert_eq!(ask(&router, to("/")).await.0, 503, "not started");

    mesh.start().await.unwrap();
    assert_eq!(ask(&router, to("/readyz")).await.0, 200);
    for path in ["/", "/by-name/users"] {
        assert_eq!(ask(&router, to(path)).await, (StatusCode::OK, None, "well\n".into()), "{path}");
    }
    let (status, wait, text) = ask(&router, to("/by-name/orders")).await;
    assert_eq!((status, wait, &*text), (StatusCode::NOT_FOUND, None, "service orders: no such service\n"));

    // What a server answers is an answer, until its circuit opens.
    backend.set(Mood::Failing);
    assert_eq!(ask(&router, to("/")).await, (StatusCode::SERVICE_UNAVAILABLE, None, "failing\n".into()));
    let (status, wait, text) = ask(&router, to("/")).await;
    assert_eq!(
        (status, &*text),
        (StatusCode::SERVICE_UNAVAILABLE, "service users: no endpoint is available\n")
    );
    assert!(wait.is_some_and(|wait| wait > 200 && wait <= 300), "{wait:?}");

    mesh.shutdown(Duration::from_secs(1)).await;
    let (status, _, text) = ask(&router, to("/")).await;
    assert_eq!((status, &*text), (StatusCode::SERVICE_UNAVAILABLE, "service users: shutting down\n"));
}

#[tokio::test]
async fn the_callers_deadline_is_the_deadline_of_what_is_called() {
    let backend = Backend::start(Mood::Hanging).await;
    let (mesh, router) = app(&backend, "deadline.timeout = \"30s\"\nretry.attempt_timeout = \"20s\"");
    mesh.start().await.unwrap();
    let mut request = to("/");
    request.headers_mut().insert("x-mesh-timeout-ms", "200".parse().unwrap());
    let began = Instant::now();
    let (status, _, text) = timeout(Duration::from_secs(10), ask(&router, request)).await.unwrap();
    assert_eq!((status, &*text), (StatusCode::GATEWAY_TIMEOUT, "service users: the deadline has passed\n"));
    assert!(began.elapsed() >= Duration::from_millis(150) && began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn layers_around_handlers_answer_as_a_server_should() {
    let handler = |uri: http::Uri| async move {
        match uri.path() {
            "/slow" => std::future::pending().await,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    };
    let breaker = BreakerConfig::builder().consecutive_failures(3).reset_timeout(Duration::from_millis(6500));
    let deadline = DeadlineConfig::builder().timeout(Some(Duration::from_secs(2)));
    let router = Router::new().fallback(handler).layer(
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(|error: axum::BoxError| async move { Answer::of(&*error) }))
            .layer(DeadlineLayer::new(deadline.build().unwrap()))
            .layer(BreakerLayer::new(breaker.build().unwrap(), Classifier::default())),
    );
    let (status, _, text) = ask(&router, to("/slow")).await;
    assert_eq!((status, &*text), (StatusCode::GATEWAY_TIMEOUT, "the deadline has passed\n"));
    for _ in 0..2 {
        assert_eq!(ask(&router, to("/")).await.0, 500);
    }
    let (status, wait, text) = ask(&router, to("/")).await;
    assert_eq!((status, &*text), (StatusCode::SERVICE_UNAVAILABLE, "the circuit is open\n"));
    assert!(wait.is_some_and(|wait| wait > 0 && wait <= 7), "{wait:?}");
}

/// A limit of the user's around each endpoint that is full: not the server's failure, and not the caller's.
#[tokio::test]
async fn what_nobody_can_take_in_time_is_too_much() {
    let backend = Backend::start(Mood::Hanging).await;
    let config = format!(
        "[services.users]\nendpoints = [\"{}\"]\nretry.max_attempts = 1\ndiscovery.ready_timeout = \"50ms\"",
        backend.address
    );
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let full = tower::limit::GlobalConcurrencyLimitLayer::new(1);
    let users =
        mesh.service("users").unwrap().per_endpoint(move |_: &_| full.clone()).http(crate::backend::client());
    mesh.start().await.unwrap();
    let first = tokio::task::spawn(users.clone().oneshot(crate::backend::get()));
    crate::traffic::until("the first is there", || backend.gets() == 1).await;
    let error = users.oneshot(crate::backend::get()).await.unwrap_err();
    let answer = error.answer();
    assert_eq!((answer.http_status(), answer.grpc_code()), (429, 8), "{error}");
    first.abort();
}
