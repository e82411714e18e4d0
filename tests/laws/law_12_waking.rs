//! No self-wake, no single-waker slot; every change wakes those who wait for it.

use std::future::{pending, poll_fn};
use std::task::Poll;

use tower::{Layer, Service, ServiceExt};
use tower_mesh_breaker::State;
use tower_mesh_core::EndpointHandle;
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
use tower_mesh_test::{Fleet, Inner, ScriptedResolver, Stepped};
use tower_mesh_tests::{ALL, Query, breaker, ms, now, settle};

fn echo() -> Inner<Query, u64> {
    Inner::new(|_, Query(n)| async move { Ok(n.into()) })
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_readiness_sleeps_until_there_is_something_to_do() {
    for (name, wrap) in ALL {
        let inner = echo();
        let service = wrap(&inner);
        settle().await;
        inner.hold();
        let mut call = Stepped::new(service.oneshot(Query(7)));
        assert!(call.poll().is_pending(), "{name}");
        // A balancer asks twice, once hoping and once in earnest, and a breaker once more when it has begun to listen.
        assert!(inner.asked() <= 3, "{name}: asked {} times", inner.asked());
        for _ in 0..100 {
            tokio::time::advance(ms(10)).await;
        }
        assert_eq!(call.wakes(), 0, "{name}");
        assert!(inner.asked() <= 3, "{name}: asked {} times", inner.asked());
        inner.release();
        assert!((1..=2).contains(&call.wakes()), "{name}: {} wakes", call.wakes());
        assert_eq!(call.poll().map(Result::unwrap), Poll::Ready(7), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_answer_is_polled_no_oftener_than_it_is_woken() {
    for (name, wrap) in ALL {
        let inner = Inner::<Query, u64>::new(|_, _| pending());
        let service = wrap(&inner);
        settle().await;
        let mut call = Stepped::new(service.oneshot(Query(7)));
        assert!(call.poll().is_pending(), "{name}");
        for _ in 0..100 {
            tokio::time::advance(ms(10)).await;
        }
        assert_eq!((call.wakes(), inner.polls()), (0, 1), "{name}");
        for _ in 0..10 {
            assert!(call.poll().is_pending(), "{name}");
        }
        assert_eq!((call.wakes(), inner.polls()), (0, 11), "{name}: one poll in, one poll out");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_who_wait_for_readiness_one_may_go() {
    for (name, wrap) in ALL {
        let inner = echo();
        let service = wrap(&inner);
        settle().await;
        inner.hold();
        let mut first = Stepped::new(service.clone().oneshot(Query(1)));
        let mut second = Stepped::new(service.oneshot(Query(2)));
        assert!(first.poll().is_pending() && second.poll().is_pending(), "{name}");
        drop(first);
        inner.release();
        assert!(second.wakes() > 0, "{name}");
        assert_eq!(second.poll().map(Result::unwrap), Poll::Ready(2), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_who_wait_for_a_permit_one_may_go() {
    for (name, wrap) in ALL {
        let inner =
            Inner::new(|call, _: Query| async move { if call == 1 { pending().await } else { Ok(call) } });
        let inner = inner.with_permits(1);
        let service = wrap(&inner);
        settle().await;
        let mut holder = Stepped::new(service.clone().oneshot(Query(0)));
        assert!(holder.poll().is_pending(), "{name}");
        let mut first = Stepped::new(service.clone().oneshot(Query(1)));
        let mut second = Stepped::new(service.oneshot(Query(2)));
        assert!(first.poll().is_pending() && second.poll().is_pending(), "{name}");
        drop((first, holder));
        assert!(second.wakes() > 0, "{name}");
        assert_eq!(second.poll().map(Result::unwrap), Poll::Ready(2), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_resolution_wakes_all_who_wait_for_it() {
    let (fleet, resolver) = (Fleet::<Query>::new(["a:1"]), ScriptedResolver::new());
    let connect = fleet.clone();
    let service = DiscoveryLayer::spawn(&resolver, "users".parse().unwrap())
        .connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    settle().await;
    let waiter = |n| Stepped::new(service.clone().oneshot(Query(n)));
    let (mut first, mut second, mut third) = (waiter(1), waiter(2), waiter(3));
    assert!(first.poll().is_pending() && second.poll().is_pending() && third.poll().is_pending());
    tokio::time::advance(ms(2000)).await;
    assert_eq!((first.wakes(), second.wakes(), third.wakes()), (0, 0, 0));
    drop(first);
    resolver.reset(["a:1"]);
    settle().await;
    for waiter in [&mut second, &mut third] {
        assert!(waiter.wakes() > 0);
        assert_eq!(waiter.poll().map(Result::unwrap), Poll::Ready("a:1".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_set_wakes_who_waits_for_an_endpoint_it_takes_out() {
    let fleet = Fleet::<Query>::new(["a:1", "b:1"]);
    let [a, b] = <[_; 2]>::try_from(fleet.endpoints()).unwrap();
    let list = FixedList::new([a]).unwrap();
    let connect = fleet.clone();
    let service = DiscoveryLayer::spawn(&list, "users".parse().unwrap())
        .connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    settle().await;
    fleet.at("a:1").hold();
    let mut call = Stepped::new(service.oneshot(Query(1)));
    assert!(call.poll().is_pending());
    list.set([b]).unwrap();
    settle().await;
    assert!(call.wakes() > 0);
    assert_eq!(call.poll().map(Result::unwrap), Poll::Ready("b:1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn an_order_to_a_circuit_wakes_all_who_wait_for_its_state() {
    let layer = breaker();
    let circuit = layer.circuit();
    circuit.force_open(now());
    let waiter = || Stepped::new(circuit.reached(State::Closed));
    let (mut first, mut second, mut third) = (waiter(), waiter(), waiter());
    assert!(first.poll().is_pending() && second.poll().is_pending() && third.poll().is_pending());
    tokio::time::advance(ms(60_000)).await;
    assert_eq!((second.wakes(), third.wakes()), (0, 0));
    drop(first);
    circuit.close(now());
    assert_eq!((second.wakes(), third.wakes()), (1, 1), "at once, not when some wait is over");
    assert!(second.poll().is_ready() && third.poll().is_ready());
    assert!(waiter().poll().is_ready(), "what is reached already is not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_alone_that_is_forced_open_answers_who_waits_for_its_inner_service() {
    let (inner, layer) = (echo(), breaker());
    inner.hold();
    let mut service = layer.layer(inner.clone());
    let mut readied = Stepped::new(poll_fn(move |cx| service.poll_ready(cx)));
    assert!(readied.poll().is_pending());
    layer.circuit().force_open(now());
    assert_eq!(readied.wakes(), 1);
    assert!(matches!(readied.poll(), Poll::Ready(Ok(()))), "ready to refuse");
    assert_eq!(inner.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_forced_open_sends_who_waits_for_its_endpoint_elsewhere() {
    let (fleet, breakers) = (Fleet::<Query>::new(["a:1", "b:1"]), breaker());
    let list = FixedList::new(fleet.endpoints()).unwrap();
    let (connect, watching) = (fleet.clone(), breakers.clone());
    let service = DiscoveryLayer::spawn(&list, "users".parse().unwrap())
        .per_endpoint(move |endpoint: &EndpointHandle| watching.watching(endpoint))
        .connect(move |endpoint: &EndpointHandle| connect.connect(endpoint));
    settle().await;
    fleet.at("a:1").hold();
    fleet.at("b:1").hold();
    // Among so many some wait for each of the two.
    let mut calls: Vec<_> = (0..32).map(|n| Stepped::new(service.clone().oneshot(Query(n)))).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    let circuits = breakers.circuits();
    let of_a = circuits.iter().find(|circuit| circuit.endpoint().unwrap().as_str() == "a:1").unwrap();
    of_a.force_open(now());
    assert!(calls.iter().any(|call| call.wakes() > 0));
    for call in &mut calls {
        assert!(call.wakes() == 0 || call.poll().is_pending());
    }
    fleet.at("b:1").release();
    for call in &mut calls {
        assert!(call.wakes() > 0);
        assert_eq!(call.poll().map(Result::unwrap), Poll::Ready("b:1".to_owned()));
    }
    assert_eq!(fleet.violations(), Vec::<&str>::new());
}
