//! A permit ends with the response body, not with its head.

use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_admission::{AdmissionLayer, LimitConfig};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, State};
use tower_mesh_core::EndpointHandle;
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
use tower_mesh_test::Inner;
use tower_mesh_tests::{Body, Head, Query, Streams, ms, now, seconds, settle};

fn streaming() -> Inner<Query, Head> {
    Inner::new(|_, _: Query| async { Ok(Head) })
}

fn one_trial_call() -> BreakerLayer<Streams> {
    BreakerLayer::new(BreakerConfig::builder().half_open_permits(1).build().unwrap(), Streams)
}

#[tokio::test(start_paused = true)]
async fn a_trial_call_is_out_until_its_body_has_ended() {
    let breakers = one_trial_call();
    let (service, circuit) = (breakers.layer(streaming()), breakers.circuit());
    circuit.trip(now());
    tokio::time::advance(seconds(5)).await;

    let mut body = service.clone().oneshot(Query(0)).await.unwrap();
    assert_eq!(circuit.state(), State::HalfOpen, "a head decides nothing");
    assert!(service.clone().oneshot(Query(1)).await.is_err());
    body.piece();
    assert!(service.clone().oneshot(Query(1)).await.is_err());
    body.end(true);
    assert_eq!(circuit.state(), State::Closed);
    assert!(service.oneshot(Query(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_badly_is_a_failure_whatever_its_head_said() {
    let breakers = one_trial_call();
    let (service, circuit) = (breakers.layer(streaming()), breakers.circuit());
    circuit.trip(now());
    tokio::time::advance(seconds(5)).await;
    service.oneshot(Query(0)).await.unwrap().end(false);
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_taken_until_the_body_has_ended() {
    let limit = AdmissionLayer::new(LimitConfig::fixed(1).unwrap(), Streams);
    let service = limit.layer(streaming());
    let mut body = service.clone().oneshot(Query(0)).await.unwrap();
    body.piece();
    assert!(service.clone().oneshot(Query(1)).await.is_err());
    body.end(false);
    drop(service.clone().oneshot(Query(1)).await.unwrap());
    assert!(service.oneshot(Query(2)).await.is_ok(), "one that is dropped unread is over");
}

#[tokio::test(start_paused = true)]
async fn a_body_counts_as_in_flight_and_its_whole_length_as_latency() {
    let list = FixedList::new(["a:1".parse().unwrap()]).unwrap();
    let breakers = one_trial_call();
    let watching = breakers.clone();
    let service = DiscoveryLayer::spawn(&list, "users".parse().unwrap())
        .classify(Streams)
        .per_endpoint(move |endpoint: &EndpointHandle| watching.watching(endpoint))
        .connect(|_: &EndpointHandle| streaming());
    settle().await;
    let body = service.clone().oneshot(Query(0)).await.unwrap();
    let endpoint = service.status().endpoints[0].clone();
    assert_eq!(endpoint.counts().in_flight(), 1);
    tokio::time::advance(ms(70)).await;
    body.end(true);
    assert_eq!((endpoint.counts().in_flight(), endpoint.counts().succeeded), (0, 1));
    let decay = tower_mesh_core::ewma::Decay::new(seconds(10));
    assert_eq!(endpoint.latency(now(), decay), Some(ms(70)));
}
