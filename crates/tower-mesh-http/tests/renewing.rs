//! Idle connections to an endpoint that goes down, with hyper-util's own pool and a real server.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_mesh_core::{Bind, EndpointHandle};
use tower_mesh_health::{HealthConfig, HealthLayer};
use tower_mesh_http::{Authority, Renewing, probe};
use tower_service::Service;

/// A server that counts its open connections, and whose health can be switched.
struct Server {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    ill: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

async fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (open, ill) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let told = ill.clone();
    let health = move || {
        let ill = told.load(Ordering::Relaxed);
        async move { if ill { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK } }
    };
    let app = Router::new().route("/", get(|| async { "hello" })).route("/healthz", get(health));
    let (counted, mut tasks) = (open.clone(), JoinSet::new());
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (app, open) = (TowerToHyperService::new(app.clone()), counted.clone());
            connections.spawn(async move {
                open.fetch_add(1, Ordering::Relaxed);
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), app).await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Server { address, open, ill, _tasks: tasks }
}

type HyperClient = Client<HttpConnector, Empty<Bytes>>;

fn client() -> HyperClient {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), held).await.is_ok(), "{what}");
}

/// Makes some calls, has the endpoint go down, and says how many connections are open then, its checks' not among them.
async fn left_open<S, E>(bind: impl FnOnce(&EndpointHandle) -> S) -> usize
where
    S: Service<Request<Empty<Bytes>>, Response = Response<Incoming>, Error = E> + Clone,
    E: std::fmt::Debug,
{
    let server = server().await;
    let endpoint = EndpointHandle::new(server.address.to_string().parse().unwrap());
    let service = bind(&endpoint);
    let call = || async {
        let request = Request::get("/").body(Empty::new()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    };
    for _ in 0..3 {
        call().await;
    }
    until("one connection is kept", || server.open.load(Ordering::Relaxed) == 1).await;

    server.ill.store(true, Ordering::Relaxed);
    let never = Duration::from_secs(3600);
    let config = HealthConfig::builder().interval(never).unhealthy_interval(never).build().unwrap();
    let (health, prober) = HealthLayer::new(config, probe::get("/healthz"));
    health.watching(&endpoint);
    let mut tasks = JoinSet::new();
    tasks.spawn(prober);
    until("it is down", || endpoint.availability().is_blocked()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let left = server.open.load(Ordering::Relaxed);
    call().await;
    assert_eq!(server.open.load(Ordering::Relaxed), 1, "and calls find a connection, if need be a new one");
    left
}

#[tokio::test]
async fn they_are_closed_if_each_endpoint_has_a_client_that_is_renewed() {
    assert_eq!(left_open(|endpoint| Renewing.bind(&client, endpoint)).await, 0);
}

#[tokio::test]
async fn they_are_kept_otherwise() {
    let client = client();
    assert_eq!(left_open(|endpoint| Authority.bind(&client, endpoint)).await, 1);
}
