//! The probe against real servers.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::{EndpointHandle, Reason};
use tower_mesh_health::{HealthConfig, HealthLayer};
use tower_mesh_http::probe;

/// A server whose `/healthz` answers the status it is told, until it is dropped.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    _task: JoinSet<std::io::Result<()>>,
}

impl Server {
    async fn start() -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let told = status.clone();
        let health = move |headers: HeaderMap| async move {
            let degraded = headers.contains_key("be-degraded");
            let status = StatusCode::from_u16(told.load(Ordering::Relaxed)).unwrap();
            let extra = degraded.then_some(("x-envoy-degraded", "1"));
            (status, axum::response::AppendHeaders(extra), headers["host"].to_str().unwrap().to_owned())
        };
        let app =
            Router::new().route("/healthz", get(health)).route("/hangs", get(std::future::pending::<()>));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await });
        Self { address, status, _task: task }
    }
}

fn endpoint(address: &impl ToString) -> EndpointHandle {
    EndpointHandle::new(address.to_string().parse().unwrap())
}

#[tokio::test]
async fn the_status_decides() {
    let server = Server::start().await;
    let endpoint = endpoint(&server.address);
    let probe = probe::get("/healthz");
    assert_eq!(probe.probe(&endpoint).await, Ok(Probed::Healthy));
    server.status.store(503, Ordering::Relaxed);
    let failure = probe.probe(&endpoint).await.unwrap_err();
    assert!(failure.is_answer());
    assert_eq!(failure.reason(), "status 503");
    let lenient = probe.clone().expect(200..=599);
    assert_eq!(lenient.probe(&endpoint).await, Ok(Probed::Healthy));
    assert_eq!(probe::get("/nowhere").probe(&endpoint).await, Err(ProbeFailure::unhealthy("status 404")));
}

#[tokio::test]
async fn headers_reach_the_server_and_its_own_word_can_degrade_it() {
    let server = Server::start().await;
    let endpoint = endpoint(&format!("http://localhost:{}", server.address.port()));
    let probe = probe::get("/healthz")
        .header(HeaderName::from_static("be-degraded"), HeaderValue::from_static("yes"));
    assert_eq!(probe.probe(&endpoint).await, Ok(Probed::Degraded));
}

#[tokio::test]
async fn a_port_beside_the_endpoints_own_can_be_asked() {
    let server = Server::start().await;
    let endpoint = endpoint(&"https://127.0.0.1:1");
    assert!(!probe::get("/healthz").probe(&endpoint).await.unwrap_err().is_answer());
    let beside = probe::get("/healthz").port(server.address.port());
    assert_eq!(beside.probe(&endpoint).await, Ok(Probed::Healthy));
}

#[tokio::test]
async fn what_does_not_answer_is_unreachable() {
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let failure = probe::get("/").probe(&endpoint(&refused)).await.unwrap_err();
    assert_eq!(failure, ProbeFailure::unreachable("connection refused"));

    for answer in ["", "SSH-2.0-OpenSSH_9.0\r\n", "HTTP/1.1 2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = endpoint(&listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
        };
        let probe = probe::get("/");
        let (result, ()) = tokio::join!(probe.probe(&endpoint), server);
        let failure = result.unwrap_err();
        assert!(!failure.is_answer(), "{answer:?}: {failure}");
    }
    let failure = probe::get("/").probe(&endpoint(&"ftp://a:1")).await.unwrap_err();
    assert!(!failure.is_answer());
}

#[tokio::test]
async fn the_request_is_plain_http_and_the_connection_ends_with_the_check() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(&listener.local_addr().unwrap());
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let mut length = 0;
        while !request[..length].ends_with(b"\r\n\r\n") {
            length += stream.read(&mut request[length..]).await.unwrap();
        }
        // The body is announced and never comes: the head is enough.
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let rest = stream.read(&mut [0; 16]).await;
        assert!(matches!(rest, Ok(0) | Err(_)), "the probe hung up");
        request.truncate(length);
        String::from_utf8(request).unwrap().to_ascii_lowercase()
    };
    let probe = probe::get("/healthz?deep=1").header(HOST, HeaderValue::from_static("users.internal"));
    let (result, request) = tokio::join!(probe.probe(&endpoint), server);
    assert_eq!(result, Ok(Probed::Healthy));
    assert!(request.starts_with("get /healthz?deep=1 http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: users.internal\r\n"), "{request}");
    assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
}

#[tokio::test]
async fn a_dropped_check_leaves_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(&listener.local_addr().unwrap());
    let probe = probe::get("/");
    let mut stream = {
        let check = std::pin::pin!(probe.probe(&endpoint));
        tokio::select! {
            result = check => panic!("nobody answered, but {result:?}"),
            accepted = listener.accept() => accepted.unwrap().0,
        }
    };
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

/// The whole of it: one prober, one server that answers, one that says no, one that accepts and never answers, one that is not there.
#[tokio::test]
async fn the_prober_tells_the_living_from_the_dead() {
    let (well, ill, hangs) =
        (Server::start().await, Server::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    ill.status.store(503, Ordering::Relaxed);
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let config = HealthConfig::builder()
        .timeout(Duration::from_millis(200))
        .interval(Duration::from_millis(20))
        .unhealthy_interval(Duration::from_millis(20))
        .build()
        .unwrap();
    let (health, mut prober) = HealthLayer::new(config, probe::get("/healthz"));
    let endpoints =
        [well.address, ill.address, hangs.local_addr().unwrap(), refused].map(|address| endpoint(&address));
    for endpoint in &endpoints {
        health.watching(endpoint);
    }
    let down = || endpoints.each_ref().map(|endpoint| endpoint.availability().contains(Reason::ProbeDown));
    let until = async |prober: &mut tower_mesh_health::Prober, expected: [bool; 4]| {
        let reached = async {
            while down() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = prober => panic!("the prober ended"),
            reached = tokio::time::timeout(Duration::from_secs(20), reached) => {
                assert!(reached.is_ok(), "{:?} instead of {expected:?}", down());
            }
        }
    };
    until(&mut prober, [false, true, true, true]).await;
    let reasons: Vec<_> = health.status().iter().filter_map(|status| status.last()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("no answer within 200ms")));
    assert!(reasons.iter().any(|reason| reason.contains("connection refused")));
    assert!(reasons.iter().any(|reason| reason.contains("status 503")));
    ill.status.store(200, Ordering::Relaxed);
    until(&mut prober, [false, false, true, true]).await;
}
