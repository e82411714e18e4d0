//! reqwest's client as the inner service.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Client, Request, Response};
use tower::ServiceExt as _;
use tower_mesh::{EndpointStatus, ErrorKind, Mesh};

use crate::backend::{Backend, Mood, nobody};

fn client() -> Client {
    Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn mesh(addresses: &[std::net::SocketAddr]) -> Mesh {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let config = format!(
        "[services.users]\nendpoints = [{}]\nretry.base_delay = \"1ms\"\nretry.max_delay = \"5ms\"",
        endpoints.join(", ")
    );
    Mesh::builder().config_toml(config).build().unwrap()
}

fn endpoint(mesh: &Mesh) -> EndpointStatus {
    mesh.status().services.remove(0).endpoints.remove(0)
}

fn request(method: &str) -> Request {
    Client::new().request(method.parse().unwrap(), "http://users/").build().unwrap()
}

#[tokio::test]
async fn calls_are_balanced_judged_and_sent_again() {
    let (well, bad) = (Backend::start(Mood::Well).await, Backend::start(Mood::Failing).await);
    let mesh = mesh(&[well.address, bad.address, nobody().await]);
    let users = mesh.service("users").unwrap().reqwest(client());
    mesh.start().await.unwrap();
    for _ in 0..40 {
        let response = Response::from(users.clone().oneshot(request("GET")).await.unwrap());
        assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "well\n"));
    }
    assert!(bad.gets() > 0 && mesh.status().services[0].retry.granted > bad.gets());
    mesh.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_post_is_sent_again_only_if_it_was_not_processed_and_a_stream_never() {
    let bad = Backend::start(Mood::Failing).await;
    let one = mesh(&[bad.address]);
    let users = one.service("users").unwrap().reqwest(client());
    one.start().await.unwrap();
    assert_eq!(users.clone().oneshot(request("POST")).await.unwrap().status(), 503);
    assert_eq!(bad.posts(), 1);
    let pieces = stream::iter([Ok::<_, std::io::Error>(Bytes::from("piece"))]);
    let mut put = request("GET");
    *put.body_mut() = Some(reqwest::Body::wrap_stream(pieces));
    assert_eq!(users.oneshot(put).await.unwrap().status(), 503);
    assert_eq!(bad.gets(), 1, "a stream cannot be sent twice");

    let none = mesh(&[nobody().await]);
    let users = none.service("users").unwrap().reqwest(client());
    none.start().await.unwrap();
    let error = users.oneshot(request("POST")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.attempts()),
        (ErrorKind::Upstream, 3),
        "nothing was sent: each may be tried"
    );
}

#[tokio::test]
async fn the_call_ends_with_the_body_in_reqwests_own_response_too() {
    let well = Backend::start(Mood::Well).await;
    let mesh = mesh(&[well.address]);
    let users = mesh.service("users").unwrap().reqwest(client());
    mesh.start().await.unwrap();
    let response = Response::from(users.clone().oneshot(request("GET")).await.unwrap());
    let seen = endpoint(&mesh);
    assert_eq!((seen.in_flight, seen.succeeded), (1, 0));
    assert_eq!(response.bytes().await.unwrap(), "well\n");
    let seen = endpoint(&mesh);
    assert_eq!((seen.in_flight, seen.succeeded), (0, 1));

    drop(Response::from(users.oneshot(request("GET")).await.unwrap()));
    let seen = endpoint(&mesh);
    assert_eq!((seen.in_flight, seen.abandoned), (0, 1));
}
