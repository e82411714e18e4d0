//! What only several layers can show: checks, circuits and the balancer on one record, and guards on one body.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_mesh_breaker::{Breaker, BreakerConfig, BreakerLayer, State};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::{BoxError, EndpointHandle, Reason};
use tower_mesh_discovery::{Balance, DiscoveryLayer, FixedList};
use tower_mesh_health::{HealthConfig, HealthLayer};
use tower_mesh_http::Classifier;
use tower_mesh_retry::{RetryConfig, RetryLayer};
use tower_mesh_test::{Behaviour, Fleet, Inner};
use tower_mesh_tests::{Query, breaker, circuit_of, deadline, ms, now, seconds, settle};

/// Passes for all endpoints but those that are down.
#[derive(Clone, Default)]
struct Down(Arc<Mutex<Vec<&'static str>>>);

impl Probe for Down {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        if self.0.lock().unwrap().iter().any(|down| *down == endpoint.id().as_str()) {
            return Err(ProbeFailure::unreachable("connection refused"));
        }
        Ok(Probed::Healthy)
    }
}

type Checked = Balance<Breaker<Inner<Query, String>, ByResult>, ByResult>;

/// A balancer over `fleet` with checks and a circuit for each endpoint; the prober runs while the set lives.
fn checked(
    fleet: &Fleet<Query>,
    down: &Down,
    breakers: &BreakerLayer<ByResult>,
) -> (Checked, tokio::task::JoinSet<()>) {
    let list = FixedList::new(fleet.endpoints()).unwrap();
    let (connect, breakers) = (fleet.clone(), breakers.clone());
    let (health, prober) = HealthLayer::new(HealthConfig::default(), down.clone());
    let (layer, driver) = DiscoveryLayer::new(&list, "users".parse().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(driver);
    tasks.spawn(prober);
    let service = layer
        .per_endpoint(move |endpoint: &EndpointHandle| {
            ServiceBuilder::new()
                .layer(health.watching(endpoint))
                .layer(breakers.watching(endpoint))
                .into_inner()
        })
        .connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    (service, tasks)
}

async fn picked(service: &Checked, calls: u32) -> Vec<String> {
    let mut picked = Vec::new();
    for n in 0..calls {
        picked.push(service.clone().oneshot(Query(n)).await.unwrap());
    }
    picked
}

#[tokio::test(start_paused = true)]
async fn what_checks_find_down_is_not_picked_and_comes_back() {
    let (fleet, down, breakers) = (Fleet::new(["a:1", "b:1"]), Down::default(), breaker());
    let (service, _tasks) = checked(&fleet, &down, &breakers);
    tokio::time::sleep(seconds(30)).await;
    assert!(picked(&service, 100).await.iter().any(|address| address == "a:1"));
    down.0.lock().unwrap().push("a:1");
    tokio::time::sleep(seconds(60)).await;
    assert!(picked(&service, 100).await.iter().all(|address| address == "b:1"));
    down.0.lock().unwrap().clear();
    tokio::time::sleep(seconds(60)).await;
    assert!(picked(&service, 100).await.iter().any(|address| address == "a:1"));
}

/// Better a doubtful endpoint than none: checks may be wrong, and all of them wrong together.
#[tokio::test(start_paused = true)]
async fn if_checks_find_all_down_calls_still_go_out() {
    let (fleet, down, breakers) = (Fleet::new(["a:1", "b:1"]), Down::default(), breaker());
    let (service, _tasks) = checked(&fleet, &down, &breakers);
    down.0.lock().unwrap().extend(["a:1", "b:1"]);
    tokio::time::sleep(seconds(60)).await;
    assert!(
        service.status().endpoints.iter().all(|endpoint| endpoint.availability().contains(Reason::ProbeDown))
    );
    assert_eq!(picked(&service, 100).await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_passes_brings_the_trial_call_forward() {
    let config = BreakerConfig::builder().reset_timeout(seconds(300)).half_open_permits(1).build().unwrap();
    let (fleet, down, breakers) =
        (Fleet::new(["a:1", "b:1"]), Down::default(), BreakerLayer::new(config, ByResult));
    let (service, _tasks) = checked(&fleet, &down, &breakers);
    settle().await;
    let circuit = circuit_of(&breakers, "a:1");
    circuit.trip(now());
    assert!(picked(&service, 50).await.iter().all(|address| address == "b:1"));
    tokio::time::sleep(seconds(60)).await;
    assert!(picked(&service, 50).await.iter().any(|address| address == "a:1"), "well before 300 s");
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_passes_though_calls_fail_is_believed_once() {
    let config = BreakerConfig::builder().reset_timeout(seconds(300)).half_open_permits(1).build().unwrap();
    let (fleet, down, breakers) =
        (Fleet::new(["a:1", "b:1"]), Down::default(), BreakerLayer::new(config, ByResult));
    let (service, _tasks) = checked(&fleet, &down, &breakers);
    settle().await;
    fleet.set("a:1", Behaviour::Failing);
    circuit_of(&breakers, "a:1").trip(now());
    let mut errors = 0;
    // It is open again for at least half of 300 s.
    for n in 0..70 {
        tokio::time::sleep(seconds(2)).await;
        errors += u32::from(service.clone().oneshot(Query(n)).await.is_err());
    }
    assert_eq!(errors, 1, "one caller paid for what the check did not see");
}

#[tokio::test(start_paused = true)]
async fn the_drivers_of_a_stack_end_with_it() {
    let (fleet, down, breakers) = (Fleet::new(["a:1", "b:1"]), Down::default(), breaker());
    let (service, mut tasks) = checked(&fleet, &down, &breakers);
    tokio::time::sleep(seconds(30)).await;
    assert!(tasks.try_join_next().is_none());
    drop(service);
    settle().await;
    assert!(tasks.try_join_next().is_some() && tasks.try_join_next().is_some(), "driver and prober");
    assert!(breakers.circuits().is_empty());
}

type Frames = stream::Iter<std::vec::IntoIter<Result<http_body::Frame<Bytes>, Infallible>>>;

/// A body of three pieces.
fn pieces() -> StreamBody<Frames> {
    let piece = |text| Ok(http_body::Frame::data(Bytes::from_static(text)));
    StreamBody::new(stream::iter(vec![piece(b"one"), piece(b"two"), piece(b"three")]))
}

/// Law 10 with what it is about: an HTTP body through the whole stack.
#[tokio::test(start_paused = true)]
async fn an_http_call_is_in_flight_until_its_body_has_been_read() {
    let list = FixedList::new(["a:1".parse().unwrap()]).unwrap();
    let config = BreakerConfig::builder().half_open_permits(1).build().unwrap();
    let http = Classifier::default();
    let breakers = BreakerLayer::new(config, http.clone());
    let watching = breakers.clone();
    let discovery = DiscoveryLayer::spawn(&list, "users".parse().unwrap())
        .classify(http.clone())
        .per_endpoint(move |endpoint: &EndpointHandle| watching.watching(endpoint))
        .connect(|_: &EndpointHandle| {
            service_fn(|_: http::Request<String>| async { Ok::<_, BoxError>(http::Response::new(pieces())) })
        });
    let retry = RetryLayer::new(RetryConfig::default(), http);
    let service = ServiceBuilder::new().layer(deadline()).layer(retry).service(discovery.clone());
    settle().await;
    let (endpoint, circuit) = (discovery.status().endpoints[0].clone(), breakers.circuits().remove(0));
    circuit.trip(now());
    tokio::time::advance(seconds(5)).await;

    let request = || http::Request::get("http://users/").body(String::new()).unwrap();
    let response = service.clone().oneshot(request()).await.unwrap();
    assert_eq!((endpoint.counts().in_flight(), circuit.state()), (1, State::HalfOpen));
    let mut body = response.into_body();
    tokio::time::advance(ms(70)).await;
    assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
    assert_eq!(
        (endpoint.counts().in_flight(), circuit.state()),
        (1, State::HalfOpen),
        "two pieces are still to come"
    );
    assert_eq!(body.collect().await.unwrap().to_bytes(), "twothree");
    assert_eq!((endpoint.counts().in_flight(), circuit.state()), (0, State::Closed));

    // Read in part and dropped by its reader: nobody's failure.
    let mut body = service.oneshot(request()).await.unwrap().into_body();
    assert!(body.frame().await.is_some());
    drop(body);
    assert_eq!((endpoint.counts().in_flight(), endpoint.counts().abandoned), (0, 1));
    assert_eq!(circuit.snapshot(now()).counts.failed, 0);
}
