//! Streaming bodies in both directions, over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::any;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tower::ServiceExt as _;
use tower_mesh::http::ReplayBody;
use tower_mesh::{EndpointStatus, ErrorKind, Mesh};

use crate::traffic::until;

type Http = Client<HttpConnector, ReplayBody<Body>>;

fn client(http2: bool) -> Http {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

/// The n-th request is answered by `answer(n)`.
async fn server<F>(answer: fn(usize, Request<Body>) -> F) -> SocketAddr
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let handler = move |State(seen): State<Arc<AtomicUsize>>, request: Request<Body>| {
        answer(seen.fetch_add(1, Ordering::Relaxed), request)
    };
    let app = Router::new().route("/", any(handler)).with_state(seen);
    tokio::task::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

fn mesh(address: SocketAddr, more: &str) -> Mesh {
    let config = format!("[services.users]\nendpoints = [\"{address}\"]\nretry.base_delay = \"1ms\"\n{more}");
    Mesh::builder().config_toml(config).build().unwrap()
}

fn endpoint(mesh: &Mesh) -> EndpointStatus {
    mesh.status().services.remove(0).endpoints.remove(0)
}

fn pieces(count: usize, size: usize) -> Body {
    let pieces = (0..count).map(move |i| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![i as u8; size]))));
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "7".parse().unwrap());
    let trailers = [Ok(Frame::trailers(trailers))];
    Body::new(StreamBody::new(stream::iter(pieces.chain(trailers))))
}

/// What is sent into the channel, piece by piece.
fn pieces_of(fed: mpsc::Receiver<Bytes>) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(fed, |mut fed| async move { Some((Ok(Frame::data(fed.recv().await?)), fed)) })
}

fn put(body: Body) -> Request<ReplayBody<Body>> {
    Request::put("/")
        .header("te", "trailers")
        .header("trailer", "checksum")
        .body(ReplayBody::new(body))
        .unwrap()
}

fn refuse() -> Response<Body> {
    Response::builder().status(503).body(Body::from("not now")).unwrap()
}

/// Fails the first request after it has read its beginning, and gives back the others.
async fn fails_once(n: usize, request: Request<Body>) -> Response<Body> {
    let mut body = request.into_body();
    if n == 0 {
        body.frame().await;
        return refuse();
    }
    let all = body.collect().await.unwrap();
    let trailer = all.trailers().map(|trailers| trailers["checksum"].clone());
    let mut response = Response::new(Body::from(all.to_bytes()));
    response.headers_mut().extend(trailer.map(|value| (http::header::ETAG, value)));
    response
}

#[tokio::test]
async fn a_stream_is_sent_again_whole_with_its_trailers() {
    for http2 in [false, true] {
        let mesh = mesh(server(fails_once).await, "");
        let users = mesh.service("users").unwrap().http(client(http2));
        mesh.start().await.unwrap();
        let response = users.oneshot(put(pieces(20, 1000))).await.unwrap();
        assert_eq!(response.status(), 200, "http2: {http2}");
        assert_eq!(response.headers()[http::header::ETAG], "7", "the trailers came too");
        let sent: Vec<u8> = (0..20).flat_map(|i| vec![i; 1000]).collect();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), sent);
        let seen = endpoint(&mesh);
        assert_eq!((seen.started, seen.failed, seen.succeeded, seen.in_flight), (2, 1, 1, 0));
    }
}

/// The first request hangs after its beginning was read; the others are given back.
async fn hangs_once(n: usize, request: Request<Body>) -> Response<Body> {
    let mut body = request.into_body();
    if n == 0 {
        body.frame().await;
        // Goes on to read, but never answers.
        while let Some(Ok(_)) = body.frame().await {}
        return std::future::pending().await;
    }
    Response::new(Body::from(body.collect().await.unwrap().to_bytes()))
}

#[tokio::test]
async fn a_stream_in_the_middle_of_which_an_attempt_times_out_goes_on_in_the_next() {
    for http2 in [false, true] {
        let mesh = mesh(server(hangs_once).await, "retry.attempt_timeout = \"150ms\"");
        let users = mesh.service("users").unwrap().http(client(http2));
        mesh.start().await.unwrap();
        let (feed, fed) = mpsc::channel::<Bytes>(1);
        let source = pieces_of(fed);
        let call = tokio::task::spawn(users.oneshot(put(Body::new(StreamBody::new(source)))));
        for n in 0..3 {
            feed.send(vec![n; 1000].into()).await.unwrap();
        }
        until("a second attempt", || endpoint(&mesh).started == 2).await;
        for n in 3..6 {
            feed.send(vec![n; 1000].into()).await.unwrap();
        }
        drop(feed);
        let response = call.await.unwrap().unwrap();
        let sent: Vec<u8> = (0..6).flat_map(|n| vec![n; 1000]).collect();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), sent, "http2: {http2}");
    }
}

async fn reads_all_and_fails(_: usize, request: Request<Body>) -> Response<Body> {
    request.into_body().collect().await.unwrap();
    refuse()
}

#[tokio::test]
async fn a_stream_too_long_to_keep_is_sent_once_and_the_servers_answer_comes_through() {
    for http2 in [false, true] {
        let mesh = mesh(server(reads_all_and_fails).await, "");
        let users = mesh.service("users").unwrap().http(client(http2));
        mesh.start().await.unwrap();
        let response = users.oneshot(put(pieces(100, 1000))).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "http2: {http2}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "not now");
        assert_eq!((endpoint(&mesh).started, mesh.status().services[0].retry.granted), (1, 0));
    }
}

#[tokio::test]
async fn a_callers_stream_that_breaks_off_is_not_the_endpoints_failure() {
    // What hyper's HTTP/2 says of it is understood with the feature only.
    for http2 in [false, cfg!(feature = "http2")] {
        let mesh = mesh(server(reads_whatever).await, "breaker.consecutive_failures = 1");
        let users = mesh.service("users").unwrap().http(client(http2));
        mesh.start().await.unwrap();
        for call in 1..=3 {
            let broken =
                stream::iter([Ok(Frame::data(Bytes::from("begins"))), Err(std::io::Error::other("disk"))]);
            let sent = users.clone().oneshot(put(Body::new(StreamBody::new(broken))));
            let error = timeout(Duration::from_secs(5), sent).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Upstream);
            let seen = endpoint(&mesh);
            assert_eq!((seen.started, seen.failed), (call, 0), "http2: {http2}: {:?}", error);
            assert_eq!(seen.circuit.unwrap().state, "closed");
        }
    }
}

async fn reads_whatever(_: usize, request: Request<Body>) -> Response<Body> {
    let _ = request.into_body().collect().await;
    Response::new(Body::empty())
}

async fn begins_and_hangs(_: usize, _: Request<Body>) -> Response<Body> {
    let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from("one")))]);
    let rest = stream::pending();
    Response::new(Body::new(StreamBody::new(futures_util::StreamExt::chain(first, rest))))
}

#[tokio::test]
async fn a_response_dropped_half_way_is_an_abandoned_call() {
    for http2 in [false, true] {
        let mesh = mesh(server(begins_and_hangs).await, "");
        let users = mesh.service("users").unwrap().http(client(http2));
        mesh.start().await.unwrap();
        let mut body = users.clone().oneshot(put(Body::empty())).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        let seen = endpoint(&mesh);
        assert_eq!(
            (seen.in_flight, seen.succeeded, seen.abandoned),
            (1, 0, 0),
            "http2: {http2}: not over with its head"
        );
        drop(body);
        let seen = endpoint(&mesh);
        assert_eq!(
            (seen.in_flight, seen.succeeded, seen.failed, seen.abandoned),
            (0, 0, 0, 1),
            "http2: {http2}"
        );
    }
}

async fn answers_at_once_and_echoes(_: usize, request: Request<Body>) -> Response<Body> {
    Response::new(request.into_body())
}

/// Once the head of the answer is there nothing is kept of the request any more, however long it goes on.
#[tokio::test]
async fn what_was_kept_is_freed_with_the_head_of_the_answer() {
    let mesh = mesh(server(answers_at_once_and_echoes).await, "");
    let users = mesh.service("users").unwrap().http(client(true));
    mesh.start().await.unwrap();
    let (feed, fed) = mpsc::channel::<Bytes>(1);
    let held = Arc::new(());
    let source =
        stream::unfold(fed, async |mut fed| Some((Ok::<_, Infallible>(Frame::data(fed.recv().await?)), fed)));
    /// Bytes whose owner can be seen.
    struct Seen(Vec<u8>, #[expect(dead_code, reason = "counted")] Arc<()>);
    impl AsRef<[u8]> for Seen {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let piece = || Bytes::from_owner(Seen(vec![7; 1000], held.clone()));
    feed.send(piece()).await.unwrap();
    let sent = users.oneshot(put(Body::new(StreamBody::new(source))));
    let mut body = sent.await.unwrap().into_body();
    for _ in 0..10 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1000);
        until("freed", || Arc::strong_count(&held) == 1).await;
        feed.send(piece()).await.unwrap();
    }
    drop(feed);
    assert_eq!(body.collect().await.unwrap().to_bytes().len(), 1000);
    assert_eq!(endpoint(&mesh).succeeded, 1);
}
