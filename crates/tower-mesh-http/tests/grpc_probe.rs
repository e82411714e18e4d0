//! The gRPC probe against tonic's own health service, and against servers without it.
#![cfg(feature = "http2")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, ProbeFailure, ProbeStream, Probed};
use tower_mesh_http::probe;

struct Backend {
    address: SocketAddr,
    reporter: HealthReporter,
    tasks: JoinSet<()>,
}

impl Backend {
    async fn start() -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("users", ServingStatus::Serving).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            Server::builder().add_service(health).serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, reporter, tasks }
    }

    async fn say(&self, status: ServingStatus) {
        self.reporter.set_service_status("users", status).await;
    }

    fn endpoint(&self) -> EndpointHandle {
        endpoint(self.address)
    }
}

fn endpoint(address: SocketAddr) -> EndpointHandle {
    EndpointHandle::new(address.to_string().parse().unwrap())
}

async fn next(stream: &mut ProbeStream) -> Option<Result<Probed, ProbeFailure>> {
    tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("no news")
}

#[tokio::test]
async fn a_check_says_what_the_server_says_of_the_service() {
    let backend = Backend::start().await;
    let endpoint = backend.endpoint();
    let (users, whole) = (probe::grpc("users"), probe::grpc(""));
    assert_eq!(users.probe(&endpoint).await, Ok(Probed::Healthy));
    assert_eq!(whole.probe(&endpoint).await, Ok(Probed::Healthy));
    backend.say(ServingStatus::NotServing).await;
    assert_eq!(users.probe(&endpoint).await, Err(ProbeFailure::unhealthy("NOT_SERVING")));
    assert_eq!(whole.probe(&endpoint).await, Ok(Probed::Healthy));
    // NOT_FOUND.
    assert_eq!(probe::grpc("other").probe(&endpoint).await, Err(ProbeFailure::unhealthy("gRPC status 5")));
}

#[tokio::test]
async fn a_watch_tells_every_change_and_that_the_server_is_gone() {
    let mut backend = Backend::start().await;
    let endpoint = backend.endpoint();
    assert!(probe::grpc("users").watch(&endpoint).is_none(), "it asks, unless it is told to watch");
    let mut stream = probe::grpc("users").watching().watch(&endpoint).unwrap();
    assert_eq!(next(&mut stream).await, Some(Ok(Probed::Healthy)));
    backend.say(ServingStatus::NotServing).await;
    assert_eq!(next(&mut stream).await, Some(Err(ProbeFailure::unhealthy("NOT_SERVING"))));
    backend.say(ServingStatus::Serving).await;
    assert_eq!(next(&mut stream).await, Some(Ok(Probed::Healthy)));
    backend.tasks.abort_all();
    backend.tasks.join_next().await;
    // Connections of tonic's server are tasks of its own; they go when the reporter's service does.
    let mut unknown = probe::grpc("other").watching().watch(&endpoint).unwrap();
    let failure = next(&mut unknown).await.unwrap().unwrap_err();
    assert!(!failure.is_answer(), "{failure}");
    assert_eq!(next(&mut unknown).await, None, "a stream that broke is over");
}

#[tokio::test]
async fn a_server_without_the_protocol_serves_as_long_as_it_is_there() {
    // A gRPC server that has other services: tonic answers UNIMPLEMENTED.
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let endpoint = endpoint(incoming.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let routes = tonic::service::Routes::default().prepare();
        let server = Server::builder().add_routes(routes);
        server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await.unwrap();
    });
    assert_eq!(probe::grpc("users").probe(&endpoint).await, Ok(Probed::Healthy));
    let mut stream = probe::grpc("users").watching().watch(&endpoint).unwrap();
    assert_eq!(next(&mut stream).await, Some(Ok(Probed::Healthy)));
    let quiet = tokio::time::timeout(Duration::from_millis(100), stream.next()).await;
    assert!(quiet.is_err(), "{quiet:?}: the connection stays, and so does what it said");
    stop.send(()).unwrap();
    let failure = next(&mut stream).await.unwrap().unwrap_err();
    assert!(!failure.is_answer(), "{failure}");
    assert_eq!(next(&mut stream).await, None);
}

#[tokio::test]
async fn a_web_server_is_no_grpc_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, Router::new()).await.unwrap() });
    let failure = probe::grpc("").probe(&endpoint).await.unwrap_err();
    assert_eq!(failure, ProbeFailure::unhealthy("status 404, and no gRPC"));
}

/// Time stands still but for the sleeps: the sign of life is asked for, and its absence ends the watch.
#[tokio::test]
async fn a_connection_that_went_silent_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(listener.local_addr().unwrap());
    let (told, silent) = tokio::sync::oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false).unwrap();
        // Drives the connection until it is told, and then never again: as if the cable were cut.
        let until = std::pin::pin!(silent);
        futures_util::future::select(until, std::pin::pin!(connection.accept())).await;
        std::future::pending::<()>().await;
    });
    let mut stream = probe::grpc("").watching().watch(&endpoint).unwrap();
    assert_eq!(next(&mut stream).await, Some(Ok(Probed::Healthy)));
    told.send(()).unwrap();
    tokio::task::yield_now().await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let failure = next(&mut stream).await.unwrap().unwrap_err();
    assert_eq!(failure, ProbeFailure::unreachable("no sign of life on the connection"));
    assert_eq!(began.elapsed().as_secs(), 15);
}
