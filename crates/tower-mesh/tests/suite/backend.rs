//! HTTP servers on loopback that do what they are told, and the client that reaches them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::routing::any;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::{Service, ServiceExt as _};
use tower_mesh::Error;
use tower_mesh::core::Endpoint;

/// What a backend does with calls. Probes hang and fail with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Failing,
    Hanging,
}

/// A server of its own on a port of its own.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    mood: watch::Sender<Mood>,
    gets: AtomicU64,
    posts: AtomicU64,
    probes: AtomicU64,
}

impl Backend {
    pub(crate) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            mood: watch::Sender::new(mood),
            gets: AtomicU64::new(0),
            posts: AtomicU64::new(0),
            probes: AtomicU64::new(0),
        });
        let app =
            Router::new().route("/", any(call)).route("/healthz", any(probe)).with_state(shared.clone());
        let server = tokio::task::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, shared, server }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.into()
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.shared.mood.send_replace(mood);
    }

    pub(crate) fn gets(&self) -> u64 {
        self.shared.gets.load(Ordering::Relaxed)
    }

    pub(crate) fn posts(&self) -> u64 {
        self.shared.posts.load(Ordering::Relaxed)
    }

    pub(crate) fn probes(&self) -> u64 {
        self.shared.probes.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn call(method: Method, State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    let counter = if method == Method::POST { &shared.posts } else { &shared.gets };
    counter.fetch_add(1, Ordering::Relaxed);
    answer(&shared).await
}

async fn probe(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    shared.probes.fetch_add(1, Ordering::Relaxed);
    answer(&shared).await
}

async fn answer(shared: &Shared) -> (StatusCode, &'static str) {
    let mut moods = shared.mood.subscribe();
    let now = *moods.borrow_and_update();
    match now {
        Mood::Well => {}
        Mood::Failing => return (StatusCode::SERVICE_UNAVAILABLE, "failing\n"),
        Mood::Hanging => {
            moods.wait_for(|mood| *mood != Mood::Hanging).await.unwrap();
        }
    }
    (StatusCode::OK, "well\n")
}

/// An address of loopback where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(crate) fn client() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) fn get() -> Request<Empty<Bytes>> {
    Request::get("/").body(Empty::new()).unwrap()
}

pub(crate) fn post() -> Request<Empty<Bytes>> {
    Request::post("/").body(Empty::new()).unwrap()
}

/// Makes a call and reads its answer to the end.
pub(crate) async fn status<S, B>(service: &S, request: Request<Empty<Bytes>>) -> Result<u16, Error>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Error> + Clone,
    B: BodyExt,
    B::Error: std::fmt::Debug,
{
    let (head, body) = service.clone().oneshot(request).await?.into_parts();
    body.collect().await.unwrap();
    Ok(head.status.as_u16())
}
