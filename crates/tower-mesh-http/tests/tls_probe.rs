//! Probes through a TLS handshake of the user's, and TLS where none is expected.
#![cfg(feature = "http2")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, Probed};
use tower_mesh_http::probe;

/// For tests alone: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj /CN=localhost
/// -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE`, both in DER.
const CERTIFICATE: &[u8] = include_bytes!("data/localhost.der");
const KEY: &[u8] = include_bytes!("data/localhost.key.der");

/// A server that is `localhost`, and clients that trust it and offer HTTP/1.1, and HTTP/2.
fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>, Arc<ClientConfig>) {
    let certificate = CertificateDer::from(CERTIFICATE);
    let key = PrivatePkcs8KeyDer::from(KEY).into();
    let mut server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = |protocol: &[u8]| {
        let mut client = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        client.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(client)
    };
    (Arc::new(server), client(b"http/1.1"), client(b"h2"))
}

/// Trusts nobody.
fn distrustful() -> Arc<ClientConfig> {
    Arc::new(ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

type Handshake = BoxFuture<'static, io::Result<client::TlsStream<TcpStream>>>;

/// What a user writes.
fn handshake(config: Arc<ClientConfig>) -> impl Fn(TcpStream, String) -> Handshake + Send + Sync + 'static {
    move |stream, host| {
        let connector = TlsConnector::from(config.clone());
        Box::pin(async move {
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            connector.connect(name, stream).await
        })
    }
}

async fn serve(config: Arc<ServerConfig>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("users", tonic_health::ServingStatus::Serving).await;
    let grpc = tonic::service::Routes::new(health).into_axum_router();
    let app = Router::new().route("/healthz", get(|| async { "ok" })).merge(grpc);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, app) = (TlsAcceptor::from(config.clone()), app.clone());
            connections.spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let service = hyper_util::service::TowerToHyperService::new(app);
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
            });
        }
    });
    (address, tasks)
}

fn endpoint(address: &impl ToString) -> EndpointHandle {
    EndpointHandle::new(address.to_string().parse().unwrap())
}

#[tokio::test]
async fn every_probe_speaks_through_the_users_handshake() {
    let (server, old, new) = configs();
    let (address, _tasks) = serve(server).await;
    let endpoint = endpoint(&format!("https://localhost:{}", address.port()));
    let untrusted = probe::get("/healthz").tls(handshake(distrustful())).probe(&endpoint).await;
    let failure = untrusted.unwrap_err();
    assert!(failure.reason().starts_with("TLS handshake: ") && !failure.is_answer(), "{failure}");

    let well = Ok(Probed::Healthy);
    assert_eq!(probe::get("/healthz").tls(handshake(old.clone())).probe(&endpoint).await, well);
    let probe = probe::get("/healthz").body_contains("ok").tls(handshake(new.clone())).http2();
    assert_eq!(probe.probe(&endpoint).await, well);
    assert_eq!(probe::grpc("users").tls(handshake(new)).probe(&endpoint).await, well);
    assert_eq!(probe::tcp().tls(handshake(old)).probe(&endpoint).await, well);
}

#[tokio::test]
async fn plain_text_to_a_port_of_tls_and_tls_to_a_port_of_plain_text_are_unreachable() {
    let patience = Duration::from_secs(20);
    let (server, client, _) = configs();
    let (address, _tasks) = serve(server).await;
    let secured = endpoint(&address);
    let said = tokio::time::timeout(patience, probe::get("/healthz").probe(&secured)).await.unwrap();
    assert!(!said.unwrap_err().is_answer(), "HTTP/1.1");
    let said = tokio::time::timeout(patience, probe::get("/healthz").http2().probe(&secured)).await.unwrap();
    assert!(!said.unwrap_err().is_answer(), "HTTP/2");
    let said = tokio::time::timeout(patience, probe::grpc("").probe(&secured)).await.unwrap();
    assert!(!said.unwrap_err().is_answer(), "gRPC");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = endpoint(&format!("https://localhost:{}", listener.local_addr().unwrap().port()));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, Router::new()).await.unwrap() });
    let probe = probe::get("/healthz").tls(handshake(client.clone()));
    let failure = tokio::time::timeout(patience, probe.probe(&plain)).await.unwrap().unwrap_err();
    assert!(failure.reason().starts_with("TLS handshake: ") && !failure.is_answer(), "{failure}");
    let failure = tokio::time::timeout(patience, probe::tcp().tls(handshake(client)).probe(&plain)).await;
    assert!(!failure.unwrap().unwrap_err().is_answer());
    assert!(probe::get("/healthz").probe(&plain).await.unwrap_err().reason().contains("no TLS"));
}
