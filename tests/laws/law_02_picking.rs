//! Pick first, then wait for that one. An endpoint's trouble is its own, a refusal leaves the request unspent, and nobody holds an old set.

use std::future::{pending, poll_fn};
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;

use futures_util::future::join_all;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, CircuitOpen, State};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::error::find;
use tower_mesh_core::{BoxError, EndpointHandle};
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
use tower_mesh_test::{Behaviour, Fleet, Inner, Stepped};
use tower_mesh_tests::{Query, balance, breaker, circuit_of, deadline, ms, now, retry, seconds, settle};

fn one_trial_call() -> BreakerLayer<ByResult> {
    BreakerLayer::new(BreakerConfig::builder().half_open_permits(1).build().unwrap(), ByResult)
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_to_become_ready_is_not_the_callers_trouble() {
    let fleet = Fleet::<Query>::new(["a:1", "b:1"]);
    let service = balance(&fleet, &breaker());
    settle().await;
    fleet.at("a:1").fail_readiness();
    for n in 0..100 {
        assert_eq!(service.clone().oneshot(Query(n)).await.unwrap(), "b:1");
    }
    assert_eq!((fleet.at("a:1").calls(), fleet.violations()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_not_ready_is_passed_over_for_one_that_is() {
    let fleet = Fleet::<Query>::new(["a:1", "b:1"]);
    let service = balance(&fleet, &breaker());
    settle().await;
    fleet.at("a:1").hold();
    let start = now();
    for n in 0..100 {
        assert_eq!(service.clone().oneshot(Query(n)).await.unwrap(), "b:1");
    }
    assert_eq!(now(), start, "nobody waited");
}

/// Refusing in `call` instead gives about half of the callers an error.
#[tokio::test(start_paused = true)]
async fn two_hundred_callers_see_no_error_while_one_endpoint_recovers() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1", "b:1"]), one_trial_call());
    let retries = retry();
    let service =
        ServiceBuilder::new().layer(deadline()).layer(retries.clone()).service(balance(&fleet, &breakers));
    settle().await;
    fleet.set("a:1", Behaviour::Slow(ms(50)));
    fleet.set("b:1", Behaviour::Slow(ms(50)));
    let circuit = circuit_of(&breakers, "a:1");
    circuit.trip(now());
    tokio::time::advance(seconds(5)).await;

    let answers = join_all((0..200).map(|n| service.clone().oneshot(Query(n)))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((fleet.at("a:1").calls(), fleet.at("b:1").calls()), (1, 199), "one trial call at a time");
    assert_eq!(retries.get_budget().snapshot(now()).granted, 0, "and no retry was spent on it");
    assert_eq!(circuit.state(), State::Closed);
    assert_eq!(fleet.violations(), Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn watching_it_refuses_before_the_call_and_alone_in_it() {
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let (alone, watching) = (breaker(), breaker().watching(&endpoint));
    for layer in [&alone, &watching] {
        layer.circuit().trip(now());
    }
    let inner = Inner::new(|call, _: Query| async move { Ok(call) });

    let mut service = watching.layer(inner.clone());
    let refusal = service.ready().await.unwrap_err();
    assert_eq!(find::<CircuitOpen>(&*refusal).unwrap().retry_after(), Some(seconds(5)));

    let mut service = alone.layer(inner.clone());
    let refusal = service.ready().await.unwrap().call(Query(0)).await.unwrap_err();
    assert!(find::<CircuitOpen>(&*refusal).is_some());
    assert_eq!((inner.asked(), inner.calls()), (0, 0), "what is open is not bothered");
}

#[tokio::test(start_paused = true)]
async fn leave_for_a_trial_call_that_is_not_used_goes_back() {
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let layer = one_trial_call().watching(&endpoint);
    let inner = Inner::new(|call, _: Query| async move { Ok(call) });
    layer.circuit().trip(now());
    tokio::time::advance(seconds(5)).await;

    let mut first = layer.layer(inner.clone());
    let mut second = first.clone();
    assert!(first.ready().await.is_ok());
    assert!(second.ready().await.is_err(), "the one leave there is is out");
    let clone = first.clone();
    drop(first);
    assert!(second.ready().await.is_ok(), "and back, though a clone of its holder lives on");
    drop(clone);
    assert_eq!(second.call(Query(0)).await.unwrap(), 1);
    assert_eq!(layer.circuit().state(), State::Closed);
}

/// Somewhere in an endpoint's service, to see when that is freed.
type Tokens = Arc<Mutex<Vec<Weak<()>>>>;

#[tokio::test(start_paused = true)]
async fn an_old_set_goes_with_the_change_whoever_keeps_a_clone() {
    let tokens = Tokens::default();
    let list = FixedList::new(["a:1".parse().unwrap()]).unwrap();
    let (layer, driver) = DiscoveryLayer::new(&list, "users".parse().unwrap());
    let made = tokens.clone();
    let service = layer.connect(move |_: &EndpointHandle| {
        let token = Arc::new(());
        made.lock().unwrap().push(Arc::downgrade(&token));
        service_fn(move |Query(n)| {
            let _in_the_service = &token;
            async move { if n == 0 { pending().await } else { Ok::<_, BoxError>(n) } }
        })
    });
    let alive = || tokens.lock().unwrap().iter().map(|token| token.strong_count() > 0).collect::<Vec<_>>();
    let mut driver = Stepped::new(driver);
    assert!(driver.poll().is_pending());

    let mut clones = vec![service.clone(); 10];
    for clone in &mut clones {
        assert_eq!(clone.ready().await.unwrap().call(Query(1)).await.unwrap(), 1);
        assert!(matches!(
            Stepped::new(poll_fn(|cx| Service::<Query>::poll_ready(clone, cx))).poll(),
            Poll::Ready(Ok(()))
        ));
    }
    let mut hanging = Stepped::new(service.clone().oneshot(Query(0)));
    assert!(hanging.poll().is_pending());

    list.set(["b:1".parse().unwrap()]).unwrap();
    assert_eq!(service.clone().oneshot(Query(2)).await.unwrap(), 2);
    assert_eq!(alive(), [true], "a call frees nothing");
    assert!(driver.poll().is_pending());
    assert_eq!(alive(), [false, true], "the driver does, whatever clones and calls there are");
    assert_eq!(service.oneshot(Query(3)).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_stays_keeps_what_was_learned() {
    let fleet = Fleet::<Query>::new(["a:1", "b:1", "c:1"]);
    let list = FixedList::new(fleet.endpoints()).unwrap();
    let (connect, breakers) = (fleet.clone(), breaker());
    let watching = breakers.clone();
    let service = DiscoveryLayer::spawn(&list, "users".parse().unwrap())
        .per_endpoint(move |endpoint: &EndpointHandle| watching.watching(endpoint))
        .connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    settle().await;
    circuit_of(&breakers, "a:1").force_open(now());
    let heavy = "a:1".parse::<tower_mesh_core::Endpoint>().unwrap().with_weight(9.try_into().unwrap());
    list.set([heavy, "b:1".parse().unwrap()]).unwrap();
    settle().await;
    for n in 0..50 {
        assert_eq!(service.clone().oneshot(Query(n)).await.unwrap(), "b:1");
    }
    let status = service.status();
    let of_a = status.endpoints.iter().find(|endpoint| endpoint.id().as_str() == "a:1").unwrap();
    assert_eq!(of_a.endpoint().weight().get(), 9);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_moves_is_called_where_it_is_and_remembered_as_who_it_is() {
    let at = |address: &str| {
        let endpoint = address.parse::<tower_mesh_core::Endpoint>().unwrap();
        endpoint.with_id("pod".parse().unwrap())
    };
    let (fleet, breakers) = (Fleet::<Query>::new(["old:1", "new:1"]), breaker());
    let list = FixedList::new([at("old:1")]).unwrap();
    let layer = DiscoveryLayer::spawn(&list, "users".parse().unwrap());
    let (per_endpoint, there) = (breakers.clone(), fleet.clone());
    let service = layer
        .clone()
        .per_endpoint(move |endpoint: &EndpointHandle| per_endpoint.watching(endpoint))
        .connect(move |endpoint: &EndpointHandle| there.connect(endpoint));
    assert_eq!(service.clone().oneshot(Query(1)).await.unwrap(), "old:1");
    let record = layer.status().endpoints[0].clone();

    fleet.set("old:1", Behaviour::Slow(seconds(1)));
    let mut under_way = Box::pin(service.clone().oneshot(Query(2)));
    assert!(poll_fn(|cx| Poll::Ready(under_way.as_mut().poll(cx))).await.is_pending());
    fleet.at("old:1").hold();
    let mut waiting = Box::pin(service.clone().oneshot(Query(3)));
    assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
    list.set([at("new:1")]).unwrap();
    assert_eq!(waiting.await.unwrap(), "new:1", "who waits for the old place is told");
    assert_eq!(service.clone().oneshot(Query(4)).await.unwrap(), "new:1");
    assert_eq!(under_way.await.unwrap(), "old:1", "a call under way is left alone");

    let kept = layer.status().endpoints[0].clone();
    assert_eq!((kept.key(), kept.counts().succeeded), (record.key(), 4));
    assert_eq!(
        (breakers.circuits().len(), fleet.violations()),
        (1, vec![]),
        "and its circuit is the one it had"
    );
}
