//! A gateway: axum in front, services of the mesh behind. Callers get the right status for whatever goes wrong, and their deadline goes on to the servers.
//!
//! `cargo run --example axum_gateway`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::{HeaderName, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_mesh::discovery::FixedList;
use tower_mesh::http::ReplayBody;
use tower_mesh::retry::DeadlineConfig;
use tower_mesh::{Answer, Error, HttpService, Mesh, ServiceBuilderExt};
use tower_mesh_examples::{Backend, Mood};

type Http = Client<HttpConnector, ReplayBody<Body>>;

/// What the handlers share.
#[derive(Clone)]
struct App {
    mesh: Mesh,
    services: Arc<BTreeMap<&'static str, HttpService<Http>>>,
}

/// Of one connection only, so not passed on (RFC 9110 §7.6.1); and the host is the server's.
const NOT_PASSED_ON: [HeaderName; 6] = [
    http::header::CONNECTION,
    http::header::HOST,
    http::header::TE,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
    http::header::PROXY_AUTHORIZATION,
];

/// Errors of the mesh are responses: 404, 429, 503 with `Retry-After`, 504.
async fn forward(
    State(app): State<App>,
    Path(name): Path<String>,
    mut request: Request<Body>,
) -> Result<Response, Error> {
    for header in NOT_PASSED_ON {
        request.headers_mut().remove(header);
    }
    *request.uri_mut() = http::Uri::from_static("/");
    let Some(service) = app.services.get(&*name) else {
        let _ = app.mesh.service(&name)?; // says that there is none
        return Ok(StatusCode::NOT_FOUND.into_response());
    };
    let answer = service.clone().oneshot(request.map(ReplayBody::new)).await?;
    Ok(answer.into_response())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backend = Backend::start().await?;
    let list = FixedList::new([backend.endpoint()])?;
    let mesh = Mesh::builder()
        .config_toml("[services.users]\nresolver = \"list\"\nbreaker.consecutive_failures = 4")
        .resolver("list", list)
        .build()?;
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let services = BTreeMap::from([("users", mesh.service("users")?.http(client))]);
    let app = App { mesh: mesh.clone(), services: Arc::new(services) };
    let router = Router::new()
        .route("/readyz", get(|State(app): State<App>| async move { app.mesh.readiness() }))
        .route("/{service}", any(forward))
        .with_state(app)
        .layer(
            ServiceBuilder::new()
                // What our layers here refuse is answered, too.
                .layer(HandleErrorLayer::new(|error: BoxError| async move { Answer::of(&*error) }))
                .mesh_deadline(DeadlineConfig::default())
                .mesh_incoming(),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let gateway = format!("http://{}", listener.local_addr()?);
    let serve = axum::serve(listener, router).into_future();

    let scenes = async {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let ask = async |what: &str, path: &str, timeout_ms: u32, expected: u16| {
            let request = client.get(format!("{gateway}{path}")).header("x-mesh-timeout-ms", timeout_ms);
            let response = request.send().await?;
            let (status, wait) = (response.status(), response.headers().get("retry-after").cloned());
            let wait = wait.map(|wait| format!(" (Retry-After: {})", wait.to_str().unwrap_or("?")));
            let text = response.text().await?;
            let text = if path == "/readyz" { "" } else { text.trim_end() };
            println!("{what:<26} {status}{} {text}", wait.unwrap_or_default());
            if status == expected { Ok(()) } else { Err(BoxError::from(format!("{what}: not {expected}"))) }
        };
        ask("not started", "/readyz", 5000, 503).await?;
        mesh.start().await?;
        ask("started", "/readyz", 5000, 200).await?;
        ask("a service", "/users", 5000, 200).await?;
        ask("no such service", "/orders", 5000, 404).await?;
        backend.set_mood(Mood::Hanging);
        ask("the caller's time is over", "/users", 200, 504).await?;
        backend.set_mood(Mood::Failing);
        ask("the server's own answer", "/users", 5000, 503).await?;
        ask("its circuit is open", "/users", 5000, 503).await?;
        mesh.shutdown(Duration::from_secs(1)).await;
        Ok::<_, BoxError>(())
    };
    tokio::select! {
        done = scenes => done,
        served = serve => Ok(served?),
    }
}
