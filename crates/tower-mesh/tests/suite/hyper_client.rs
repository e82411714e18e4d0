//! hyper-util's client: one pool for all endpoints, and errors from before a request was sent told apart from later ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;
use tower_mesh::core::Endpoint;
use tower_mesh::discovery::FixedList;
use tower_mesh::{EndpointStatus, Error, ErrorKind, Mesh};

use crate::backend::{Backend, Mood, nobody};

type Body = Full<bytes::Bytes>;
type Http = Client<HttpConnector, Body>;

fn client(http2: bool) -> Http {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

/// A server that does `serve` to each connection, and how many there were.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> (SocketAddr, Arc<AtomicU64>)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    tokio::task::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::spawn(serve(stream));
        }
    });
    (address, count)
}

/// The first endpoint is tried first, the second only when the first has failed.
async fn mesh(first: SocketAddr, second: SocketAddr) -> Mesh {
    let second = Endpoint::from(second).with_priority(1);
    let list = FixedList::new([first.into(), second]).unwrap();
    let config =
        "[services.users]\nresolver = \"list\"\nretry.base_delay = \"1ms\"\nretry.max_delay = \"2ms\"";
    let mesh = Mesh::builder().config_toml(config).resolver("list", list).build().unwrap();
    mesh.start().await.unwrap();
    mesh
}

async fn post(mesh: &Mesh, http2: bool) -> Result<u16, Error> {
    let users = mesh.service("users").unwrap().http(client(http2));
    let request = Request::post("/").body(Body::from("once")).unwrap();
    let (head, body) = users.oneshot(request).await?.into_parts();
    body.collect().await.unwrap();
    Ok(head.status.as_u16())
}

fn endpoints(mesh: &Mesh) -> Vec<EndpointStatus> {
    mesh.status().services.remove(0).endpoints
}

/// A POST that fails at `first` is answered by another endpoint, which gets it once.
async fn is_sent_elsewhere(first: SocketAddr, http2: bool) {
    let well = if http2 { http2_backend().await } else { http1_backend().await };
    let mesh = mesh(first, well.0).await;
    assert_eq!(post(&mesh, http2).await.unwrap(), 200);
    assert_eq!(well.1.load(Ordering::Relaxed), 1);
    assert_eq!(mesh.status().services[0].retry.granted, 1);
}

/// A POST that fails at `first` may have been processed, so it is not sent to another endpoint.
async fn is_not_sent_again(first: SocketAddr, http2: bool) {
    let well = if http2 { http2_backend().await } else { http1_backend().await };
    let mesh = mesh(first, well.0).await;
    assert_eq!(post(&mesh, http2).await.unwrap_err().kind(), ErrorKind::Upstream);
    assert_eq!(well.1.load(Ordering::Relaxed), 0);
}

async fn empty(_: Request<hyper::body::Incoming>) -> Result<http::Response<Body>, std::convert::Infallible> {
    Ok(http::Response::new(Body::default()))
}

async fn http1_backend() -> (SocketAddr, Arc<AtomicU64>) {
    server(|stream| async move {
        let service = hyper::service::service_fn(empty);
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        Ok(())
    })
    .await
}

async fn http2_backend() -> (SocketAddr, Arc<AtomicU64>) {
    server(|stream| async move {
        let service = hyper::service::service_fn(empty);
        let io = TokioIo::new(stream);
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn one_client_serves_all_endpoints_from_one_pool() {
    let backends = [http1_backend().await, http1_backend().await, http1_backend().await];
    let addresses: Vec<_> = backends.iter().map(|(address, _)| format!("\"{address}\"")).collect();
    let config = format!("[services.users]\nendpoints = [{}]", addresses.join(", "));
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let users = mesh.service("users").unwrap().http(client(false));
    mesh.start().await.unwrap();
    for _ in 0..60 {
        let request = Request::get("/").body(Body::default()).unwrap();
        users.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    }
    assert!(endpoints(&mesh).iter().all(|endpoint| endpoint.succeeded > 0));
    for (address, connections) in &backends {
        assert_eq!(
            connections.load(Ordering::Relaxed),
            1,
            "{address} was not asked over its idle connection"
        );
    }
}

#[tokio::test]
async fn what_cannot_connect_is_sent_elsewhere_whatever_its_method() {
    for http2 in [false, true] {
        is_sent_elsewhere(nobody().await, http2).await;
    }
}

#[tokio::test]
async fn a_connection_lost_after_the_request_was_sent_is_not_a_reason_to_send_a_post_again() {
    let (lost, connections) = server(|mut stream| async move {
        assert!(stream.read(&mut [0; 1024]).await? > 0, "a request came");
        Ok(()) // and closes
    })
    .await;
    is_not_sent_again(lost, false).await;
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

/// A connection from the pool that the server has closed meanwhile: the client finds out before it writes, and opens another.
#[tokio::test]
async fn an_idle_connection_that_was_closed_costs_the_caller_nothing() {
    let backend = Backend::start(Mood::Well).await;
    let (closing, connections) = server(|mut stream| async move {
        assert!(stream.read(&mut [0; 1024]).await? > 0, "a request came");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
    })
    .await;
    let mesh = mesh(closing, backend.address).await;
    let users = mesh.service("users").unwrap().http(client(false));
    for _ in 0..10 {
        let request = Request::post("/").body(Body::from("once")).unwrap();
        assert_eq!(users.clone().oneshot(request).await.unwrap().status(), 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((connections.load(Ordering::Relaxed), backend.posts()), (10, 0));
}

#[cfg(feature = "http2")]
mod http2 {
    use super::*;

    const GOAWAY: u8 = 7;
    const RST_STREAM: u8 = 3;
    const REFUSED_STREAM: u32 = 7;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// Speaks HTTP/2 by hand until the first request is there, then says `last`.
    async fn until_a_request(mut stream: TcpStream, last: Vec<u8>) -> std::io::Result<()> {
        const SETTINGS: u8 = 4;
        const HEADERS: u8 = 1;
        stream.read_exact(&mut [0; 24]).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; length as usize]).await?;
            if head[3] == SETTINGS && head[4] == 0 {
                stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?;
            }
            if head[3] == HEADERS {
                stream.write_all(&last).await?;
                // Reads on, so that what is unread does not become a reset of the connection.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Ok(());
            }
        }
    }

    fn go_away(last_stream: u32) -> Vec<u8> {
        let payload = [last_stream.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        frame(GOAWAY, 0, 0, &payload)
    }

    #[tokio::test]
    async fn a_goaway_that_leaves_the_stream_out_sends_it_elsewhere() {
        let (first, _) = server(|stream| until_a_request(stream, go_away(0))).await;
        is_sent_elsewhere(first, true).await;
    }

    #[tokio::test]
    async fn a_refused_stream_is_sent_elsewhere() {
        let refused = || frame(RST_STREAM, 0, 1, &REFUSED_STREAM.to_be_bytes());
        let (first, _) = server(move |stream| until_a_request(stream, refused())).await;
        is_sent_elsewhere(first, true).await;
    }

    #[tokio::test]
    async fn a_goaway_that_includes_the_stream_and_then_the_end_is_not_a_reason_to_send_a_post_again() {
        let (first, _) = server(|stream| async move {
            let _ =
                tokio::time::timeout(Duration::from_millis(300), until_a_request(stream, go_away(1))).await;
            Ok(())
        })
        .await;
        is_not_sent_again(first, true).await;
    }

    #[tokio::test]
    async fn a_stream_reset_for_another_reason_is_not_a_reason_to_send_a_post_again() {
        const INTERNAL_ERROR: u32 = 2;
        let reset = || frame(RST_STREAM, 0, 1, &INTERNAL_ERROR.to_be_bytes());
        let (first, _) = server(move |stream| until_a_request(stream, reset())).await;
        is_not_sent_again(first, true).await;
    }
}
