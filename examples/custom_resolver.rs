//! A source of endpoints of one's own: a small inventory over HTTP, asked again and again, whose answers become updates.
//!
//! `cargo run --example custom_resolver`: two backends are listed, one is delisted, the inventory fails and comes back. Callers see none of it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{BoxError, ServiceExt};
use tower_mesh::Mesh;
use tower_mesh::core::{Endpoint, Resolve, ResolveError, ServiceName, Update};
use tower_mesh_examples::Backend;

type Http = Client<HttpConnector, Empty<Bytes>>;

/// Asks `GET /{service}` of an inventory that answers one address a line.
struct Inventory {
    address: String,
    client: Http,
    every: Duration,
}

impl Resolve for Inventory {
    type Updates = std::pin::Pin<Box<dyn Stream<Item = Result<Update, ResolveError>> + Send>>;

    /// Only makes the stream: asking begins when it is polled, and ends when it is dropped.
    fn resolve(&self, service: &ServiceName) -> Self::Updates {
        let (client, every) = (self.client.clone(), self.every);
        let uri = format!("http://{}/{service}", self.address);
        Box::pin(stream::unfold(true, move |first| {
            let (client, uri) = (client.clone(), uri.clone());
            async move {
                if !first {
                    tokio::time::sleep(every).await;
                }
                // An error is an item, not the end: what was known stays in use, and the next answer makes it good.
                Some((ask(&client, &uri).await.map_err(ResolveError::new), false))
            }
        }))
    }
}

async fn ask(client: &Http, uri: &str) -> Result<Update, BoxError> {
    let request = Request::get(uri).body(Empty::new())?;
    let answer = tokio::time::timeout(Duration::from_secs(1), client.request(request)).await??;
    match answer.status() {
        StatusCode::OK => {}
        // Sure that there is no such service, which is something else than not to know.
        StatusCode::NOT_FOUND => return Ok(Update::NotFound),
        other => return Err(format!("the inventory says {other}").into()),
    }
    let body = answer.into_body().collect().await?.to_bytes();
    let lines = std::str::from_utf8(&body)?.lines();
    Ok(Update::Reset(lines.map(Endpoint::new).collect::<Result<_, _>>()?))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backends = [Backend::start().await?, Backend::start().await?];
    let all = backends.each_ref().map(|backend| backend.endpoint().address().to_owned());

    // The inventory itself: a list, or none while it is broken.
    let list = Arc::new(Mutex::new(Some(all.join("\n"))));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let listed = list.clone();
    let app = Router::new().route(
        "/users",
        get(async move || {
            let list = listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Ok::<_, Infallible>(list.ok_or(StatusCode::INTERNAL_SERVER_ERROR))
        }),
    );
    let serve = axum::serve(listener, app).into_future();

    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let inventory = Inventory { address, client: client.clone(), every: Duration::from_millis(100) };
    let mesh = Mesh::builder()
        .config_toml("[services.users]\nresolver = \"inventory\"")
        .resolver("inventory", inventory)
        .build()?;
    let users = mesh.service("users")?.http(client);

    let scenes = async {
        mesh.start().await?;
        for (what, now) in [
            ("both are listed", Some(all.join("\n"))),
            ("one is delisted", Some(all[1].clone())),
            ("the inventory is broken", None),
            ("both are listed again", Some(all.join("\n"))),
        ] {
            *list.lock().unwrap_or_else(PoisonError::into_inner) = now;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut well = 0;
            for _ in 0..20 {
                let request = Request::get("/").body(Empty::new())?;
                well += u32::from(users.clone().oneshot(request).await?.status().is_success());
            }
            let status = mesh.status();
            let service = status.services.first().ok_or("no service")?;
            println!(
                "{what:<24} {well}/20 calls succeed; {} endpoints, {}{}",
                service.endpoints.len(),
                service.discovery,
                service.discovery_error.as_ref().map_or(String::new(), |error| format!(": {error}")),
            );
            if well < 20 {
                return Err(format!("{what}: {} calls failed", 20 - well).into());
            }
        }
        mesh.shutdown(Duration::from_secs(1)).await;
        Ok::<_, BoxError>(())
    };
    tokio::select! {
        done = scenes => done,
        served = serve => Ok(served?),
    }
}
