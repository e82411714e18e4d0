//! What the examples share: HTTP backends on loopback that misbehave when they are told to.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tower_mesh::core::Endpoint;

/// How long a well backend takes to answer.
pub const USUAL_LATENCY: Duration = Duration::from_millis(2);

/// What a backend does with requests, the health check included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers 200 after [`USUAL_LATENCY`].
    Well,
    /// Answers 503.
    Failing,
    /// Takes a hundred times as long.
    Slow,
    /// Accepts and never answers.
    Hanging,
}

/// An axum server of its own on a port of its own.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    mood: watch::Sender<Mood>,
    server: JoinHandle<()>,
}

impl Backend {
    /// Starts one on a free port of loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mood, moods) = watch::channel(Mood::Well);
        let app = Router::new()
            .route("/", get(answer).put(upload))
            .route("/healthz", get(answer))
            .with_state(moods);
        #[expect(clippy::disallowed_methods, reason = "owned: aborted when the backend is dropped")]
        let server = tokio::task::spawn(serve(listener, app));
        Ok(Self { address, mood, server })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> Endpoint {
        self.address.into()
    }

    /// Changes what it does from now on.
    pub fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

/// Dropping a backend kills it: the port is closed and so is every connection, in the middle of what it was doing.
impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The connections live in a set of this future's own, so that they end with it.
async fn serve(listener: TcpListener, app: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let service = TowerToHyperService::new(app.clone());
                connections.spawn(async move {
                    // A client that hangs up is no news.
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(State(mut moods): State<watch::Receiver<Mood>>) -> (StatusCode, &'static str) {
    let mood = *moods.borrow_and_update();
    match mood {
        Mood::Well => tokio::time::sleep(USUAL_LATENCY).await,
        Mood::Failing => return (StatusCode::SERVICE_UNAVAILABLE, "failing\n"),
        Mood::Slow => tokio::time::sleep(USUAL_LATENCY * 100).await,
        Mood::Hanging => {
            let _ = moods.wait_for(|mood| *mood != Mood::Hanging).await;
        }
    }
    (StatusCode::OK, "well\n")
}

/// Reads what is uploaded, and says how much it was.
async fn upload(State(moods): State<watch::Receiver<Mood>>, body: Body) -> (StatusCode, String) {
    match axum::body::to_bytes(body, 1 << 20).await {
        Ok(read) if *moods.borrow() != Mood::Failing => (StatusCode::OK, format!("{} bytes\n", read.len())),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "failing\n".to_owned()),
    }
}

/// The program of the project's front page compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct FrontPage;
