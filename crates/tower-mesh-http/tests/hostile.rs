//! Every probe against servers that behave badly.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{any, get};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_http::probe::{self, HttpProbe};

/// A server that does this with every connection, until it is dropped.
struct Server {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Server {
    async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, _task: task }
    }

    async fn axum(app: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, _task: task }
    }

    fn endpoint(&self) -> EndpointHandle {
        EndpointHandle::new(self.address.to_string().parse().unwrap())
    }
}

/// An address at which nothing listens.
async fn refused() -> EndpointHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    EndpointHandle::new(listener.local_addr().unwrap().to_string().parse().unwrap())
}

/// What each probe says that waits for an answer: HTTP/1.1, HTTP/2, gRPC. None: nothing within `bound`.
async fn said(endpoint: &EndpointHandle, bound: Duration) -> Vec<Option<Result<Probed, ProbeFailure>>> {
    let said = vec![timeout(bound, probe::get("/").probe(endpoint)).await.ok()];
    #[cfg(feature = "http2")]
    let said = [
        said,
        vec![timeout(bound, probe::get("/").http2().probe(endpoint)).await.ok()],
        vec![timeout(bound, probe::grpc("").probe(endpoint)).await.ok()],
    ]
    .concat();
    said
}

const PATIENCE: Duration = Duration::from_secs(20);
const BOUND: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_refused_connection_is_unreachable_to_all() {
    let endpoint = refused().await;
    for said in said(&endpoint, PATIENCE).await {
        assert_eq!(said, Some(Err(ProbeFailure::unreachable("connection refused"))));
    }
    assert_eq!(probe::tcp().probe(&endpoint).await, Err(ProbeFailure::unreachable("connection refused")));
}

#[tokio::test]
async fn a_reset_is_unreachable_to_all_that_ask_something() {
    // Closed with bytes unread, which the operating system tells by a reset.
    let server = Server::raw(|stream| async move { stream.readable().await.unwrap() }).await;
    for said in said(&server.endpoint(), PATIENCE).await {
        let failure = said.unwrap().unwrap_err();
        assert!(!failure.is_answer() && failure.is_conclusive(), "{failure}");
    }
}

#[tokio::test]
async fn one_that_accepts_and_never_answers_is_left_to_the_time_limit_and_tcp_does_not_see_it() {
    let server = Server::raw(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let endpoint = server.endpoint();
    assert!(said(&endpoint, BOUND).await.iter().all(Option::is_none));
    assert_eq!(probe::tcp().probe(&endpoint).await, Ok(Probed::Healthy));
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_left_to_the_time_limit_and_taken_if_it_comes() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let slow = |pause: Duration| {
        Server::raw(move |mut stream| async move {
            for byte in head {
                stream.write_all(&[*byte]).await.unwrap_or_default();
                tokio::time::sleep(pause).await;
            }
        })
    };
    let never = slow(Duration::from_secs(3600)).await;
    assert!(timeout(BOUND, probe::get("/").probe(&never.endpoint())).await.is_err());
    let slow = slow(Duration::from_millis(1)).await;
    assert_eq!(probe::get("/").probe(&slow.endpoint()).await, Ok(Probed::Healthy));
}

#[tokio::test]
async fn an_endless_head_is_no_http() {
    let server = Server::raw(|mut stream| async move {
        let mut line = b"HTTP/1.1 200 OK\r\n".to_vec();
        while stream.write_all(&line).await.is_ok() {
            line = b"x: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(100);
        }
    })
    .await;
    let said = timeout(PATIENCE, probe::get("/").probe(&server.endpoint())).await.unwrap();
    assert!(!said.unwrap_err().is_answer());
}

#[tokio::test]
async fn what_speaks_another_protocol_is_unreachable() {
    let server = Server::raw(|mut stream| async move {
        stream.write_all(b"SSH-2.0-OpenSSH_9.0\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for said in said(&server.endpoint(), PATIENCE).await {
        assert!(!said.unwrap().unwrap_err().is_answer());
    }
    // HTTP/2 to a server of HTTP/1.1 alone, and the other way round.
    #[cfg(feature = "http2")]
    {
        let old = Server::raw(|mut stream| async move {
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
        })
        .await;
        let failure = probe::get("/").http2().probe(&old.endpoint()).await.unwrap_err();
        assert!(!failure.is_answer(), "{failure}");
        let failure = probe::grpc("").probe(&old.endpoint()).await.unwrap_err();
        assert!(!failure.is_answer(), "{failure}");
        let new = Server::raw(|stream| async move {
            if let Ok(mut connection) = h2::server::handshake(stream).await {
                while connection.accept().await.is_some() {}
            }
        })
        .await;
        let failure = probe::get("/").probe(&new.endpoint()).await.unwrap_err();
        assert!(!failure.is_answer(), "{failure}");
    }
}

fn app() -> Router {
    let endless = || async {
        Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(Bytes::from("not yet. ".repeat(500)))
        }))
    };
    let stuck = || async {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"wai"))]);
        Body::from_stream(futures_util::StreamExt::chain(first, futures_util::stream::pending()))
    };
    Router::new()
        .route("/endless", get(endless))
        .route("/stuck", get(stuck))
        .route("/teapot", get(|| async { StatusCode::IM_A_TEAPOT }))
        .route("/method", any(|method: Method| async move { method.to_string() }))
        .route("/word", get(|| async { "all is ready" }))
}

/// The probe in every version of HTTP there is.
fn versions(probe: HttpProbe) -> Vec<HttpProbe> {
    #[cfg(feature = "http2")]
    return vec![probe.clone(), probe.http2()];
    #[cfg(not(feature = "http2"))]
    vec![probe]
}

#[tokio::test]
async fn statuses_methods_and_bodies_decide_in_every_version_of_http() {
    let server = Server::axum(app()).await;
    let endpoint = server.endpoint();
    for (probe, expected) in [
        (probe::get("/word"), Ok(Probed::Healthy)),
        (probe::get("/teapot"), Err("status 418")),
        (probe::get("/teapot").and_expect(418..=418), Ok(Probed::Healthy)),
        (probe::get("/word").expect(418..=418), Err("status 200")),
        (probe::get("/word").body_contains("ready"), Ok(Probed::Healthy)),
        (
            probe::get("/word").body_contains("steady"),
            Err("\"steady\" is not in the first 12 bytes of the body"),
        ),
        (
            probe::get("/word").body_contains("ready").max_body(10),
            Err("\"ready\" is not in the first 10 bytes of the body"),
        ),
        (probe::get("/method").method(Method::POST).body_contains("POST"), Ok(Probed::Healthy)),
        (probe::get("/method").method(Method::HEAD), Ok(Probed::Healthy)),
        (
            probe::get("/word").method(Method::HEAD).body_contains("ready"),
            Err("\"ready\" is not in the first 0 bytes of the body"),
        ),
        (probe::get("/endless"), Ok(Probed::Healthy)),
        (probe::get("/endless").body_contains("yet. not"), Ok(Probed::Healthy)),
        (
            probe::get("/endless").body_contains("ready"),
            Err("\"ready\" is not in the first 65536 bytes of the body"),
        ),
    ] {
        for probe in versions(probe) {
            let said = timeout(PATIENCE, probe.probe(&endpoint)).await.unwrap();
            assert_eq!(said, expected.map_err(ProbeFailure::unhealthy), "{probe:?}");
        }
    }
    for probe in versions(probe::get("/stuck").body_contains("ready")) {
        assert!(timeout(BOUND, probe.probe(&endpoint)).await.is_err(), "{probe:?}");
    }
}

#[tokio::test]
async fn another_port_and_another_host_can_be_asked() {
    let server = Server::axum(app()).await;
    let port = server.address.port();
    let elsewhere = EndpointHandle::new("192.0.2.1:1".parse().unwrap());
    for probe in versions(probe::get("/word").host("localhost").port(port)) {
        assert_eq!(probe.probe(&elsewhere).await, Ok(Probed::Healthy));
    }
    assert_eq!(probe::tcp().host("127.0.0.1").port(port).probe(&elsewhere).await, Ok(Probed::Healthy));
}
