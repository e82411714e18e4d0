//! A client that tonic generated, over a mesh service whose endpoints are tonic channels.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint as Target, Server};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Told;
use tonic_health::pb::health_client::HealthClient;
use tower_mesh::config::ServiceConfig;
use tower_mesh::{Config, Mesh};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::replay::Once;
use tower_mesh_http::Classifier;

/// A real tonic server that says of itself what it was told to.
struct Backend {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Backend {
    async fn start(serves: &'static str) -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status(serves, ServingStatus::Serving).await;
        let server = Server::builder().add_service(health).serve_with_incoming(incoming);
        #[expect(clippy::disallowed_methods, reason = "aborted when the backend is dropped")]
        let server = tokio::task::spawn(async move { server.await.unwrap() });
        Self { address, server }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn channel(endpoint: &EndpointHandle) -> Channel {
    let target = format!("http://{}", endpoint.endpoint().address());
    Target::from_shared(target).expect("an address").connect_lazy()
}

fn mesh(backends: &[&Backend]) -> Mesh {
    let endpoints = backends.iter().map(|backend| backend.address.into());
    let config = Config::new().service("health".parse().unwrap(), ServiceConfig::with_endpoints(endpoints));
    Mesh::builder().config(config).build().unwrap()
}

fn asking(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn unary_calls_go_through_and_a_status_in_the_answer_is_the_callers() {
    let (a, b) = (Backend::start("greeter").await, Backend::start("greeter").await);
    let mesh = mesh(&[&a, &b]);
    let service =
        mesh.service("health").unwrap().classify(Classifier::default()).replay(Once).connect(channel);
    mesh.start().await.unwrap();

    let mut client = HealthClient::new(service);
    for _ in 0..20 {
        let answer = client.check(asking("greeter")).await.unwrap().into_inner();
        assert_eq!(answer.status(), Told::Serving);
    }
    let missing = client.check(asking("nobody")).await.unwrap_err();
    assert_eq!(
        missing.code(),
        Code::NotFound,
        "tonic reads the status out of the trailers that passed through"
    );

    let endpoints = mesh.status().services.remove(0).endpoints;
    let started: u64 = endpoints.iter().map(|endpoint| endpoint.started).sum();
    assert_eq!(started, 21);
    assert!(endpoints.iter().all(|endpoint| endpoint.started > 0), "both were used: {endpoints:?}");
    let ended: u64 = endpoints.iter().map(|endpoint| endpoint.succeeded + endpoint.failed).sum();
    assert_eq!(ended, 21, "every call was counted out at the end of its trailers");
}

#[tokio::test]
async fn a_stream_is_in_flight_until_its_reader_lets_go() {
    let backend = Backend::start("greeter").await;
    let mesh = mesh(&[&backend]);
    let service =
        mesh.service("health").unwrap().classify(Classifier::default()).replay(Once).connect(channel);
    mesh.start().await.unwrap();

    let mut client = HealthClient::new(service);
    let mut updates = client.watch(asking("greeter")).await.unwrap().into_inner();
    assert_eq!(updates.message().await.unwrap().unwrap().status(), Told::Serving);
    let endpoint = || mesh.status().services.remove(0).endpoints.remove(0);
    assert_eq!(endpoint().in_flight, 1, "the head has arrived, the stream has not ended");
    drop(updates);
    assert_eq!((endpoint().in_flight, endpoint().abandoned), (0, 1));
}

#[tokio::test]
async fn a_dead_backend_is_a_typed_answer_in_bounded_time() {
    let backend = Backend::start("greeter").await;
    let mesh = mesh(&[&backend]);
    let service =
        mesh.service("health").unwrap().classify(Classifier::default()).replay(Once).connect(channel);
    mesh.start().await.unwrap();
    drop(backend);

    let mut client = HealthClient::new(service);
    let bound = Duration::from_secs(5);
    let status = tokio::time::timeout(bound, client.check(asking("greeter"))).await.unwrap().unwrap_err();
    let error = std::error::Error::source(&status).expect("the mesh's error is in the chain");
    assert!(tower_mesh_core::error::find_in::<tower_mesh::Error>(error).is_some(), "{status:?}");
}
