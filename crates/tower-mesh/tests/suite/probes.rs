//! Every probe that a file can ask for, against real servers.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::routing::any;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::service_fn;
use tower_mesh::Mesh;
use tower_mesh::core::EndpointHandle;

use crate::inner::{Query, Rows};

async fn serve(app: Router, tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// A mesh with one service of one endpoint, started, and what keeps the endpoint watched.
async fn mesh(endpoint: &str, health: &str) -> (Mesh, impl Sized + use<>) {
    let config = format!(
        "[services.users]\nendpoints = [\"{endpoint}\"]\n[services.users.health]\ninterval = \"20ms\"\n\
         unhealthy_interval = \"20ms\"\n{health}"
    );
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let service = mesh.service("users").unwrap().connect(|_: &EndpointHandle| {
        service_fn(|query: Query| async move { Ok::<_, std::io::Error>(Rows(query.0)) })
    });
    mesh.start().await.unwrap();
    (mesh, service)
}

/// Waits until the probe has said this, at the end of what it said.
async fn until(mesh: &Mesh, state: &str, last: &str) {
    let health = || mesh.status().services[0].endpoints[0].health.clone();
    let said = async {
        loop {
            if let Some(health) = health()
                && health.state == state
                && health.last.is_some_and(|said| said.ends_with(last))
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let said = tokio::time::timeout(Duration::from_secs(20), said).await;
    assert!(said.is_ok(), "not {state} ({last}), but {:?}", health());
}

/// Says yes to just what the file below asks.
async fn particular(method: Method, uri: Uri, headers: HeaderMap) -> (StatusCode, String) {
    // In HTTP/2 the authority takes the place of the host header.
    let host = headers.get("host").map_or(uri.host().unwrap_or_default().as_bytes(), |host| host.as_bytes());
    let asked = method == Method::POST && host == b"users.internal" && headers["x-deep"] == "1";
    let status = if asked { StatusCode::IM_A_TEAPOT } else { StatusCode::NOT_FOUND };
    (status, format!("{method}: database ready"))
}

#[tokio::test]
async fn all_that_a_file_says_of_an_http_probe_is_sent_and_looked_at() {
    let mut tasks = JoinSet::new();
    let address = serve(Router::new().route("/healthz", any(particular)), &mut tasks).await;
    let http = |rest: &str| {
        format!(
            "[services.users.health.http]\npath = \"/healthz\"\nmethod = \"POST\"\nexpected = [204, \"410-418\"]\n\
             headers = {{ host = \"users.internal\", x-deep = \"1\" }}\nport = {}\nhost = \"127.0.0.1\"\n{rest}",
            address.port()
        )
    };
    for (rest, state, last) in [
        ("body_contains = \"ready\"", "healthy", "passed"),
        (
            "body_contains = \"ready\"\nmax_body = 7",
            "unhealthy",
            "answered no: \"ready\" is not in the first 7 bytes of the body",
        ),
        (
            "body_contains = \"steady\"",
            "unhealthy",
            "answered no: \"steady\" is not in the first 20 bytes of the body",
        ),
    ] {
        let (mesh, _service) = mesh("192.0.2.1:1", &http(rest)).await;
        until(&mesh, state, last).await;
    }
    #[cfg(feature = "http2")]
    {
        let (mesh, _service) = mesh("192.0.2.1:1", &http("http2 = true")).await;
        until(&mesh, "healthy", "passed").await;
    }
    let plain = "[services.users.health.http]\nexpected = [404]";
    let (mesh, _service) = mesh(&address.to_string(), plain).await;
    until(&mesh, "healthy", "passed").await;
}

#[tokio::test]
async fn what_the_defaults_say_of_a_probe_a_service_says_more_exactly() {
    let mut tasks = JoinSet::new();
    let address = serve(Router::new().route("/deep", any(|| async { "ready" })), &mut tasks).await;
    let config = format!(
        "[defaults.health.http]\npath = \"/deep\"\nbody_contains = \"steady\"\n\
         [services.a]\nendpoints = [\"{address}\"]\n[services.b]\nendpoints = [\"{address}\"]\n\
         health.http.body_contains = \"ready\"\n[services.c]\nendpoints = [\"{address}\"]\nhealth.tcp = {{}}"
    );
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let services: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            mesh.service(name).unwrap().connect(|_: &EndpointHandle| {
                service_fn(|query: Query| async move { Ok::<_, std::io::Error>(Rows(query.0)) })
            })
        })
        .into();
    mesh.start().await.unwrap();
    let states = || -> Vec<String> {
        let status = mesh.status();
        let of = |service: &tower_mesh::ServiceStatus| service.endpoints[0].health.clone().unwrap().state;
        status.services.iter().map(of).collect()
    };
    let until = async {
        while states().iter().any(|state| state == "unknown") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until).await.unwrap();
    assert_eq!(states(), ["unhealthy", "healthy", "healthy"]);
    drop(services);
}

#[tokio::test]
async fn a_tcp_probe_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mesh, _service) = mesh(&address.to_string(), "tcp = {}\nfall = 2").await;
    until(&mesh, "healthy", "passed").await;
    drop(listener);
    until(&mesh, "unhealthy", "connection refused").await;
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn a_grpc_probe_asks_or_is_told() {
    use tonic_health::ServingStatus::{NotServing, Serving};
    for watch in [false, true] {
        let mut tasks = JoinSet::new();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("users.v1", Serving).await;
        let app = tonic::service::Routes::new(health).into_axum_router();
        let address = serve(app, &mut tasks).await;
        // Watched, it is told of the change long before it would be asked about it.
        let interval =
            if watch { "interval = \"1h\"\nunhealthy_interval = \"20ms\"" } else { "interval = \"20ms\"" };
        let config = format!(
            "[services.users]\nendpoints = [\"{address}\"]\n[services.users.health]\n{interval}\n\
             grpc = {{ service = \"users.v1\", watch = {watch} }}"
        );
        let mesh = Mesh::builder().config_toml(config).build().unwrap();
        let _service = mesh.service("users").unwrap().connect(|_: &EndpointHandle| {
            service_fn(|query: Query| async move { Ok::<_, std::io::Error>(Rows(query.0)) })
        });
        mesh.start().await.unwrap();
        until(&mesh, "healthy", "passed").await;
        reporter.set_service_status("users.v1", NotServing).await;
        until(&mesh, "unhealthy", "answered no: NOT_SERVING").await;
        reporter.set_service_status("users.v1", Serving).await;
        until(&mesh, "healthy", "passed").await;
    }
}
