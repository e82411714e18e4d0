//! hyper-util's client behind the mesh: one pool for all endpoints, and a streaming upload that survives a server that refuses it.
//!
//! `cargo run --example hyper_client`

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, ServiceExt};
use tower_mesh::Mesh;
use tower_mesh::discovery::FixedList;
use tower_mesh::http::ReplayBody;
use tower_mesh_examples::{Backend, Mood};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backends = [Backend::start().await?, Backend::start().await?, Backend::start().await?];
    let list = FixedList::new(backends.iter().map(Backend::endpoint))?;
    let mesh = Mesh::builder()
        .config_toml("[services.users]\nresolver = \"list\"")
        .resolver("list", list)
        .build()?;

    // The client is an ordinary one. Its body type is what the mesh sends: a stream that can be sent again.
    let client: Client<HttpConnector, ReplayBody<Body>> = Client::builder(TokioExecutor::new()).build_http();
    let users = mesh.service("users")?.http(client);
    mesh.start().await?;

    // One server refuses everything. A PUT may be sent twice, so callers see nothing of it, though each body is a stream.
    backends[0].set_mood(Mood::Failing);
    for i in 0..20 {
        let pieces = (0..10).map(|n| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(vec![n; 1000]))));
        let body = ReplayBody::new(Body::new(StreamBody::new(stream::iter(pieces))));
        let response = users.clone().oneshot(Request::put("/").body(body)?).await?;
        let (head, body) = response.into_parts();
        // Reading the body to its end is part of the call: only then is the endpoint free again.
        let read = body.collect().await?.to_bytes();
        if head.status != StatusCode::OK || read != "10000 bytes\n" {
            return Err(format!("upload {i}: {} {read:?}", head.status).into());
        }
    }
    let status = mesh.status();
    let service = status.services.first().ok_or("no service")?;
    println!("20 uploads of 10 pieces each arrived; {} were sent again", service.retry.granted);
    for endpoint in &service.endpoints {
        println!("{:<22} {:>2} sent, {} failed", endpoint.id, endpoint.started, endpoint.failed);
    }
    mesh.shutdown(std::time::Duration::from_secs(1)).await;
    Ok(())
}
