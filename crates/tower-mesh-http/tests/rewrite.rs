//! A real client, bound to real servers.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::ServiceExt;
use tower_mesh_core::classify::{Retry, judge};
use tower_mesh_core::{Bind, EndpointHandle, error};
use tower_mesh_http::{Authority, Classifier, InvalidAddress};

type Body = Empty<bytes::Bytes>;

/// A server that answers with its name, the path and the host it was asked for; it ends with the test's runtime.
async fn server(name: &'static str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |uri: Uri, headers: HeaderMap| async move {
        format!("{name} {} {}", uri, headers["host"].to_str().unwrap())
    };
    let app = Router::new().route("/path", get(answer));
    let serve = async move { axum::serve(listener, app).await };
    let tasks = &mut tokio::task::JoinSet::new();
    tasks.spawn(serve);
    tasks.detach_all();
    address
}

fn endpoint(address: &str) -> EndpointHandle {
    EndpointHandle::new(address.parse().unwrap())
}

fn client() -> Client<hyper_util::client::legacy::connect::HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

#[tokio::test]
async fn one_client_reaches_each_server_by_its_binding() {
    let (a, b) = (server("a").await, server("b").await);
    let client = client();
    for (name, address, written) in [("a", a, a.to_string()), ("b", b, format!("http://{b}"))] {
        let service = Authority.bind(&client, &endpoint(&written));
        for (uri, host) in [("/path?q=1", None), ("http://users.internal/path?q=1", Some("users.internal"))] {
            let mut request = Request::get(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let request = request.body(Body::new()).unwrap();
            let response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let text = response.into_body().collect().await.unwrap().to_bytes();
            let expected_host = host.map_or(address.to_string(), str::to_owned);
            assert_eq!(text, format!("{name} /path?q=1 {expected_host}"));
        }
    }
}

#[tokio::test]
async fn a_refused_connection_is_judged_as_not_processed() {
    let unused = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let service = Authority.bind(&client(), &endpoint(&unused.to_string()));
    let request = Request::post("/path").body(Body::new()).unwrap();
    let error = service.oneshot(request).await.unwrap_err();
    let verdict = judge::<http::Response<hyper::body::Incoming>, _>(&Classifier::default(), Err(&*error));
    assert!(verdict.is_failure());
    assert_eq!(verdict.retry, Retry::NotProcessed);
}

#[tokio::test]
async fn an_answer_that_breaks_off_may_have_been_processed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hang_up = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 16];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut head).await.unwrap();
    };
    let service = Authority.bind(&client(), &endpoint(&address.to_string()));
    let request = Request::post("/path").body(Body::new()).unwrap();
    let (error, ()) = tokio::join!(service.oneshot(request), hang_up);
    let error = error.unwrap_err();
    let verdict = judge::<http::Response<hyper::body::Incoming>, _>(&Classifier::default(), Err(&*error));
    assert!(verdict.is_failure());
    assert_eq!(verdict.retry, Retry::IfIdempotent, "{error:?}");
}

#[tokio::test]
async fn an_address_that_is_none_fails_that_endpoint_and_names_it() {
    let mut service = Authority.bind(&client(), &endpoint("ftp://files:21"));
    let request = || Request::get("/path").body(Body::new()).unwrap();
    let at_readiness = service.clone().oneshot(request()).await.unwrap_err();
    let at_call = tower::Service::call(&mut service, request()).await.unwrap_err();
    for failed in [at_readiness, at_call] {
        let found = error::find::<InvalidAddress>(&*failed).expect("typed");
        assert_eq!(found.endpoint().as_str(), "ftp://files:21");
        let verdict =
            judge::<http::Response<hyper::body::Incoming>, _>(&Classifier::default(), Err(&*failed));
        assert!(verdict.is_failure());
        assert_eq!(verdict.retry, Retry::NotProcessed);
    }
}
