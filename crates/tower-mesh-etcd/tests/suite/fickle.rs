//! A server that makes every watch, and every lease, and ends it at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tower_mesh_etcd::{EtcdConfig, EtcdResolver};

use crate::{said, users};

/// A header that says revision 1; in the answer to a listing there is nothing else.
const LISTED: &[u8] = b"\x0a\x02\x18\x01";

/// The same, and that the watch is created.
const CREATED: &[u8] = b"\x0a\x02\x18\x01\x18\x01";

/// The same, and a lease of number 7 for 10 s.
const GRANTED: &[u8] = b"\x0a\x02\x18\x01\x10\x07\x18\x0a";

/// The end of a call that went well, after one message.
fn answer(message: &[u8]) -> Response<Body> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = Bytes::from([&[0][..], &length, message].concat());
    let end = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let body = Full::new(frame).with_trailers(std::future::ready(Some(Ok(end))));
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

/// Where it is, and how many watches and leases were begun.
async fn fickle() -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (watches, leases) = (count.clone(), count.clone());
    let app = Router::new()
        .route("/etcdserverpb.KV/Range", post(async || answer(LISTED)))
        .route("/etcdserverpb.KV/Put", post(async || answer(LISTED)))
        .route("/etcdserverpb.Lease/LeaseKeepAlive", post(async || answer(GRANTED)))
        .route(
            "/etcdserverpb.Lease/LeaseGrant",
            post(async move || {
                leases.fetch_add(1, Ordering::Relaxed);
                answer(GRANTED)
            }),
        )
        .route(
            "/etcdserverpb.Watch/Watch",
            post(async move || {
                watches.fetch_add(1, Ordering::Relaxed);
                answer(CREATED)
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, count)
}

#[tokio::test]
async fn watches_that_end_at_once_are_begun_again_later_and_later() {
    // The waits are by chance, but these ones.
    fastrand::seed(3);
    let (address, watches) = fickle().await;
    let ms = Duration::from_millis;
    let config = EtcdConfig::builder().servers([format!("http://{address}")]).retry_delay(ms(10));
    let mut updates = users(&EtcdResolver::new(config.build().unwrap()));
    let began = Instant::now();
    for _ in 0..9 {
        assert_eq!([said(&mut updates).await, said(&mut updates).await], ["= ", "Failed"]);
    }
    assert_eq!(watches.load(Ordering::Relaxed), 9);
    // If they did not grow, it would be 80 ms at most.
    assert!(began.elapsed() > ms(400), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_lease_that_is_lost_at_once_is_taken_again_later_and_later() {
    // The waits are by chance, but these ones.
    fastrand::seed(3);
    let (address, leases) = fickle().await;
    let config = EtcdConfig::builder()
        .servers([format!("http://{address}")])
        .retry_delay(Duration::from_millis(10))
        .build()
        .unwrap();
    let resolver = EtcdResolver::new(config);
    let (registration, driver) =
        resolver.register(&"users".parse().unwrap(), &"a:1".parse().unwrap()).unwrap();
    let began = Instant::now();
    let driver = tokio::spawn(driver);
    while registration.status().renewed < 8 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // If they did not grow, it would be 80 ms at most.
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(leases.load(Ordering::Relaxed), 9);
    driver.abort();
}
