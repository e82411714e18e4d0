//! Twice what a real server can do, with the layer and without.
//!
//! The server, axum over real connections, works on a few requests at a time, each for a while; the rest waits in it, as it would for a pool of threads or of connections to a
//! database. Nobody waits longer for an answer than the client's patience, but the server does not know that and works on for those who have gone.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_mesh_admission::{AdmissionConfig, AdmissionLayer, LimitConfig, Overloaded};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{BoxError, error};

use crate::ms;

/// Requests that the server works on at a time, and for how long each: 400 in a second.
const WORKERS: usize = 8;
const WORK: Duration = ms(20);
const CAPACITY: f64 = WORKERS as f64 / 0.02;
const PATIENCE: Duration = ms(250);
const OFFERED: u32 = 1600;

async fn server() -> String {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let work = move || {
        let workers = workers.clone();
        // In a task of its own: that the client has gone away does not end it.
        let work = tokio::spawn(async move {
            let _worker = workers.acquire_owned().await;
            tokio::time::sleep(WORK).await;
            "done"
        });
        async move { work.await.unwrap_or("lost") }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", get(work));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/")
}

struct Seen {
    /// How long the calls took that had an answer in time, in order.
    latencies: Vec<Duration>,
    refused: u32,
    timed_out: u32,
    took: Duration,
}

impl Seen {
    fn goodput(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    fn p99(&self) -> Duration {
        self.latencies.get(self.latencies.len() * 99 / 100).copied().unwrap_or(PATIENCE)
    }
}

/// Offers twice the capacity for two seconds, at even distances.
async fn offer(url: &str, layer: AdmissionLayer<ByResult>) -> Seen {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let service =
        BoxCloneSyncService::new(layer.layer(tower::service_fn(move |request: Request<Empty<Bytes>>| {
            let client = client.clone();
            async move {
                let answer = async {
                    client.request(request).await?.into_body().collect().await.map_err(BoxError::from)
                };
                tokio::time::timeout(PATIENCE, answer).await.map_err(BoxError::from)?
            }
        })));
    let began = Instant::now();
    let mut calls = Vec::new();
    let mut beat = tokio::time::interval(ms(5));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for _ in 0..OFFERED / 4 {
        beat.tick().await;
        for _ in 0..4 {
            let call = service.clone().oneshot(Request::get(url).body(Empty::new()).unwrap());
            calls.push(tokio::spawn(async move {
                let sent = Instant::now();
                (call.await.map(|_| ()), sent.elapsed())
            }));
        }
    }
    let (mut latencies, mut refused, mut timed_out) = (Vec::new(), 0, 0);
    for call in calls {
        match call.await.unwrap() {
            (Ok(()), latency) => latencies.push(latency),
            (Err(error), _) if error::find::<Overloaded>(&*error).is_some() => refused += 1,
            (Err(_), _) => timed_out += 1,
        }
    }
    latencies.sort();
    Seen { latencies, refused, timed_out, took: began.elapsed() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_twice_the_capacity_admitted_calls_stay_fast_and_the_server_stays_busy() {
    let without = offer(&server().await, AdmissionLayer::new(AdmissionConfig::new(), ByResult)).await;
    let fixed = LimitConfig::fixed(2 * WORKERS as u32).unwrap();
    let with = offer(&server().await, AdmissionLayer::new(fixed, ByResult)).await;
    let adaptive = LimitConfig::builder().initial(16).min(4).max(64).build().unwrap();
    let found = offer(&server().await, AdmissionLayer::new(adaptive, ByResult)).await;

    for (name, seen) in [("without", &without), ("fixed", &with), ("adaptive", &found)] {
        println!(
            "{name}: {:.0} a second in time of {CAPACITY} there could be, p99 {:?}, {} refused, {} timed out",
            seen.goodput(),
            seen.p99(),
            seen.refused,
            seen.timed_out
        );
    }
    // What everybody waits for, nobody gets: most time out, and the server works for those who have gone.
    assert_eq!(without.refused, 0);
    assert!(without.timed_out > OFFERED / 3, "{}", without.timed_out);
    for (name, seen) in [("fixed", &with), ("adaptive", &found)] {
        assert!(seen.refused > OFFERED / 4, "{name}: {} refused", seen.refused);
        assert!(seen.timed_out < OFFERED / 20, "{name}: {} timed out", seen.timed_out);
        assert!(seen.p99() < PATIENCE, "{name}: p99 {:?}", seen.p99());
        assert!(seen.goodput() > 0.6 * CAPACITY, "{name}: {:.0} a second", seen.goodput());
        assert!(seen.goodput() > 1.5 * without.goodput(), "{name}: {:.0} a second", seen.goodput());
    }
    assert!(with.p99() < ms(150), "16 under way at 8 workers: {:?}", with.p99());
}
