//! TLS against real rustls servers: who they are, who we are, and certificates that change while calls go on.
#![cfg(feature = "tls")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tasks end with the runtime of their test")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tower::ServiceExt as _;
use tower_mesh_core::classify::{Retry, judge};
use tower_mesh_core::{Bind, BoxError, EndpointHandle};
use tower_mesh_http::tls::{Identity, Tls, TlsBuilder};
use tower_mesh_http::{Authority, Classifier};

/// What is said of a certificate by an authority of the same name that is not trusted.
const OTHER_CA: &str = "BadSignature";

/// An authority that vouches for certificates.
struct Ca {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

struct Certified {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { pem, der, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, names: &[&str], uris: &[&str]) -> Certified {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified { pem: certificate.pem(), der: certificate.der().clone(), key }
    }
}

/// A server, and the certificates by which clients introduced themselves, one for each request.
struct Server {
    address: SocketAddr,
    clients: Arc<Mutex<Vec<Option<CertificateDer<'static>>>>>,
}

impl Server {
    /// If `clients` is given, only clients that it vouches for are served.
    async fn start(certified: &Certified, clients: Option<&Ca>) -> Self {
        let config = ServerConfig::builder();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(ca.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
                config.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(certified.key.serialize_der()).unwrap();
        let mut config = config.with_single_cert(vec![certified.der.clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients = Arc::new(Mutex::new(Vec::new()));
        let seen = clients.clone();
        tokio::task::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, seen) = (acceptor.clone(), seen.clone());
                tokio::task::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let (_, session) = stream.get_ref();
                    let client = session.peer_certificates().map(|chain| chain[0].clone().into_owned());
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        seen.lock().unwrap().push(client.clone());
                        let version = format!("{:?}", request.version());
                        async move {
                            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(version))))
                        }
                    });
                    let io = TokioIo::new(stream);
                    // A client that hangs up is no news.
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(io, service).await;
                });
            }
        });
        Self { address, clients }
    }

    fn served(&self) -> usize {
        self.clients.lock().unwrap().len()
    }
}

type Https = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Each call opens a connection of its own.
fn client(tls: &Tls) -> Https {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(tls.connector())
}

async fn call(client: &Https, address: &str) -> Result<String, BoxError> {
    let endpoint = EndpointHandle::new(address.parse()?);
    let request = Request::get("/").body(Empty::new())?;
    let answer = Authority.bind(client, &endpoint).oneshot(request).await?;
    Ok(String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?)
}

/// A call to `server` under its IP address.
async fn by_address(tls: TlsBuilder, server: &Server) -> Result<String, BoxError> {
    call(&client(&tls.build().unwrap()), &format!("https://{}", server.address)).await
}

/// The handshake failed because of what `why` says, so that nothing was sent.
fn is_refused(result: Result<String, BoxError>, why: &str) {
    let error = result.unwrap_err();
    let verdict = judge::<Response<hyper::body::Incoming>, _>(&Classifier::default(), Err(&*error));
    assert!(verdict.is_failure() && verdict.retry == Retry::NotProcessed, "{error:?}");
    assert!(format!("{error:?}").contains(why), "{error:?}");
}

fn trusting(ca: &Ca) -> TlsBuilder {
    Tls::builder().trust_pem(ca.pem.clone())
}

#[tokio::test]
async fn a_server_is_known_by_its_name_and_by_who_vouches_for_it() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = Server::start(&ca.certify(&["users.internal"], &[]), None).await;
    let version = by_address(trusting(&ca).server_name("users.internal"), &server).await.unwrap();
    assert_eq!(version, if cfg!(feature = "http2") { "HTTP/2.0" } else { "HTTP/1.1" });
    is_refused(by_address(trusting(&ca).server_name("orders.internal"), &server).await, "NotValidForName");
    is_refused(by_address(trusting(&ca), &server).await, "NotValidForName");
    is_refused(by_address(trusting(&other).server_name("users.internal"), &server).await, OTHER_CA);
    assert_eq!(server.served(), 1);

    let server = Server::start(&ca.certify(&["localhost"], &[]), None).await;
    let tls = trusting(&ca).build().unwrap();
    let address = format!("https://localhost:{}", server.address.port());
    call(&client(&tls), &address).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clear = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "in the clear" }));
    tokio::task::spawn(async move { axum::serve(listener, app).await.unwrap() });
    assert!(call(&client(&tls), &clear).await.is_err(), "nothing goes in the clear");
}

#[tokio::test]
async fn a_server_is_known_by_its_spiffe_id() {
    let (ca, other) = (Ca::new(), Ca::new());
    let id = "spiffe://example.org/users";
    let server = Server::start(&ca.certify(&[], &[id]), None).await;
    by_address(trusting(&ca).spiffe_id(id), &server).await.unwrap();
    for wrong in ["spiffe://example.org/orders", "spiffe://example.org/users/x", "spiffe://example.com/users"]
    {
        is_refused(by_address(trusting(&ca).spiffe_id(wrong), &server).await, "NotValidForName");
    }
    is_refused(by_address(trusting(&other).spiffe_id(id), &server).await, OTHER_CA);

    let nobody = Server::start(&ca.certify(&["users.internal"], &[]), None).await;
    is_refused(by_address(trusting(&ca).spiffe_id(id), &nobody).await, "NotValidForName");
    let two = Server::start(&ca.certify(&[], &[id, "spiffe://example.org/orders"]), None).await;
    is_refused(by_address(trusting(&ca).spiffe_id(id), &two).await, "NotValidForName");
    assert_eq!((server.served(), nobody.served(), two.served()), (1, 0, 0));
}

/// Two files of their own.
struct Files {
    folder: PathBuf,
}

impl Files {
    fn new(certified: &Certified) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tower-mesh-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let files = Self { folder: std::env::temp_dir().join(name) };
        std::fs::create_dir_all(&files.folder).unwrap();
        files.write("pem", &certified.pem);
        files.write("key", &certified.key.serialize_pem());
        files
    }
    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(kind)
    }
    fn write(&self, kind: &str, text: &str) {
        std::fs::write(self.path(kind), text).unwrap();
    }
    async fn identity(&self) -> Identity {
        Identity::from_files(self.path("pem"), self.path("key")).await.unwrap()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn a_server_that_wants_to_know_who_calls_is_told() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = Server::start(&ca.certify(&["users.internal"], &[]), Some(&ca)).await;
    let tls = || trusting(&ca).server_name("users.internal");
    let (known, stranger) = (ca.certify(&[], &["spiffe://example.org/me"]), other.certify(&["me"], &[]));

    let (files, strange) = (Files::new(&known), Files::new(&stranger));
    by_address(tls().identity(files.identity().await), &server).await.unwrap();
    assert_eq!(server.clients.lock().unwrap()[0].as_ref(), Some(&known.der));
    assert!(by_address(tls(), &server).await.is_err());
    assert!(by_address(tls().identity(strange.identity().await), &server).await.is_err());
    assert_eq!(server.served(), 1);
}

#[tokio::test]
async fn certificate_and_key_are_exchanged_together_while_calls_go_on() {
    let ca = Ca::new();
    let server = Server::start(&ca.certify(&["users.internal"], &[]), Some(&ca)).await;
    let (old, new) = (ca.certify(&["old"], &[]), ca.certify(&["new"], &[]));
    let files = Files::new(&old);
    let identity = files.identity().await;
    let watching = tokio::task::spawn(identity.watch(Duration::from_millis(5)));
    let tls = trusting(&ca).server_name("users.internal").identity(identity.clone()).build().unwrap();
    let client = client(&tls);
    let address = format!("https://{}", server.address);
    let last = || server.clients.lock().unwrap().last().cloned().flatten().unwrap();
    let calls = async |until: &dyn Fn() -> bool| {
        let begin = server.served();
        for _ in 0..400 {
            call(&client, &address).await.unwrap();
            if until() && server.served() > begin + 3 {
                return;
            }
        }
        panic!("400 calls and no end");
    };
    calls(&|| last() == old.der).await;

    // Half of it: the old pair stays, and it is said why.
    files.write("pem", &new.pem);
    calls(&|| identity.last_error().is_some()).await;
    let why = identity.last_error().unwrap();
    assert!(why.contains("not the key of") && why.contains(&*files.path("key").to_string_lossy()), "{why}");
    assert_eq!((last(), identity.reloads()), (old.der.clone(), 0));
    // Not even that.
    files.write("key", "-----BEGIN PRIVATE KEY-----\nMIG");
    calls(&|| identity.last_error().is_some_and(|now| now != why)).await;
    assert_eq!(last(), old.der);
    std::fs::remove_file(files.path("key")).unwrap();
    calls(&|| identity.last_error().is_some_and(|now| now.contains("No such file"))).await;
    assert_eq!(last(), old.der);

    files.write("key", &new.key.serialize_pem());
    calls(&|| last() == new.der).await;
    assert_eq!((identity.reloads(), identity.last_error()), (1, None));
    assert!(!identity.reload().await.unwrap(), "nothing new");

    // The watch ends with the last identity.
    drop((identity, tls, client));
    tokio::time::timeout(Duration::from_secs(5), watching).await.unwrap().unwrap();
}

/// The key is a pipe for the first of two reloads, so that it has read the old certificate and ends after the other.
#[cfg(unix)]
#[tokio::test]
async fn of_two_reloads_at_once_the_one_that_read_first_takes_nothing_back() {
    use std::io::Write as _;
    use tokio_rustls::rustls::client::ResolvesClientCert as _;

    let ca = Ca::new();
    let (old, new) = (ca.certify(&["old"], &[]), ca.certify(&["new"], &[]));
    let files = Files::new(&old);
    let identity = files.identity().await;
    let key = files.path("key");
    std::fs::remove_file(&key).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&key).status().unwrap().success());
    let reloading = identity.clone();
    let first = tokio::task::spawn(async move { reloading.reload().await });
    let pipe = key.clone();
    // Opens when the other end does.
    let opened = tokio::task::spawn_blocking(|| std::fs::OpenOptions::new().write(true).open(pipe));
    let mut pipe = opened.await.unwrap().unwrap();

    std::fs::remove_file(&key).unwrap();
    files.write("pem", &new.pem);
    files.write("key", &new.key.serialize_pem());
    assert!(identity.reload().await.unwrap());
    pipe.write_all(old.key.serialize_pem().as_bytes()).unwrap();
    drop(pipe);
    assert!(!first.await.unwrap().unwrap(), "what it would take over is there already");
    assert_eq!(identity.resolve(&[], &[]).unwrap().cert[0], new.der);
    assert_eq!((identity.reloads(), identity.last_error()), (1, None));
}

#[tokio::test]
async fn what_cannot_be_is_told_with_its_field() {
    let text = |builder: TlsBuilder| builder.build().unwrap_err().to_string();
    assert_eq!(
        text(Tls::builder()),
        "invalid configuration: trust: found nobody, allowed is at least one certificate authority"
    );
    let ca = Ca::new();
    let all = text(trusting(&ca).trust_pem("no PEM").server_name("a b").spiffe_id("users"));
    for part in [
        "trust_pem: found no certificate",
        "server_name: found \"a b\"",
        "spiffe_id: found \"users\"",
        "spiffe_id: found server_name beside it",
    ] {
        assert!(all.contains(part), "{all}");
    }
    let error = Identity::from_files("/nowhere.pem", "/nowhere.key").await.unwrap_err();
    assert_eq!(error.file(), std::path::Path::new("/nowhere.pem"));
    let certified = ca.certify(&["a"], &[]);
    let files = Files::new(&certified);
    files.write("key", &ca.certify(&["b"], &[]).key.serialize_pem());
    let error = Identity::from_files(files.path("pem"), files.path("key")).await.unwrap_err();
    assert!(error.to_string().contains("not the key of"), "{error}");
}
