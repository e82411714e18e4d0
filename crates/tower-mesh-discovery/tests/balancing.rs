//! Where calls go, seen from outside: shares, what is skipped, and what happens when much is unavailable.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tower::{Layer as _, Service, ServiceBuilder, service_fn};
use tower_mesh_core::error::find;
use tower_mesh_core::{BoxError, CallContext, Endpoint, EndpointHandle, Reason};
use tower_mesh_discovery::{
    Algorithm, Candidates, DiscoveryConfig, DiscoveryConfigBuilder, DiscoveryLayer, FixedList, HashKeyLayer,
    NoEndpoints, PerEndpoint, hash,
};

fn weighted(address: &str, weight: u32) -> Endpoint {
    address.parse::<Endpoint>().unwrap().with_weight(NonZeroU32::new(weight).unwrap())
}

fn plain(n: usize) -> Vec<Endpoint> {
    (0..n).map(|i| weighted(&format!("e{i}:1"), 1)).collect()
}

/// Levels of so many endpoints each, named `p0-0:1` and so on.
fn in_levels(sizes: &[usize]) -> Vec<Endpoint> {
    let level = |(level, &n): (usize, &usize)| {
        (0..n).map(move |i| weighted(&format!("p{level}-{i}:1"), 1).with_priority(level as u32))
    };
    sizes.iter().enumerate().flat_map(level).collect()
}

type Layer = DiscoveryLayer;

fn layer(endpoints: Vec<Endpoint>, config: DiscoveryConfigBuilder) -> (Layer, FixedList) {
    let list = FixedList::new(endpoints).unwrap();
    let (layer, driver) =
        DiscoveryLayer::with_config(&list, "users".parse().unwrap(), config.build().unwrap());
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(driver);
    (layer, list)
}

/// A service that answers with the address, at once; a request of `true` is never answered.
fn service(layer: Layer) -> impl Service<bool, Response = String, Error = BoxError> + Clone {
    layer.connect(|endpoint: &EndpointHandle| {
        let address = endpoint.endpoint().address().to_owned();
        service_fn(move |hold: bool| {
            let address = address.clone();
            async move {
                if hold {
                    std::future::pending::<()>().await;
                }
                Ok::<_, BoxError>(address)
            }
        })
    })
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

async fn counts<S>(service: &S, calls: u32) -> HashMap<String, u32>
where
    S: Service<bool, Response = String, Error = BoxError> + Clone,
{
    let mut service = service.clone();
    let mut counts = HashMap::new();
    for _ in 0..calls {
        *counts.entry(service.call(false).await.unwrap()).or_default() += 1;
    }
    counts
}

/// Whether so many of `calls` are within `tolerance` of `share`.
#[track_caller]
fn near(counts: &HashMap<String, u32>, address: &str, share: f64, tolerance: f64) {
    let calls: u32 = counts.values().sum();
    let found = f64::from(counts.get(address).copied().unwrap_or(0)) / f64::from(calls);
    assert!((found - share).abs() <= tolerance, "{address}: {found}, not {share}; {counts:?}");
}

fn share(counts: &HashMap<String, u32>, prefix: &str) -> f64 {
    let of = counts.iter().filter(|(address, _)| address.starts_with(prefix)).map(|(_, n)| n).sum::<u32>();
    f64::from(of) / f64::from(counts.values().sum::<u32>())
}

fn handle(layer: &Layer, address: &str) -> EndpointHandle {
    layer.status().endpoints.into_iter().find(|endpoint| endpoint.id().as_str() == address).unwrap()
}

fn with(algorithm: Algorithm) -> DiscoveryConfigBuilder {
    DiscoveryConfig::builder().algorithm(algorithm)
}

#[tokio::test(start_paused = true)]
async fn shares_follow_weights_and_a_change_of_weights() {
    // In turn exactly, at random and by hash of random keys to within 2 %.
    for (algorithm, tolerance) in [
        (Algorithm::RoundRobin, 0.0),
        (Algorithm::Random, 0.02),
        (Algorithm::RingHash, 0.04),
        (Algorithm::Maglev, 0.02),
    ] {
        let (layer, list) = layer(vec![weighted("a:1", 1), weighted("b:1", 3)], with(algorithm));
        let service = service(layer);
        settle().await;
        let found = counts(&service, 8000).await;
        near(&found, "a:1", 0.25, tolerance);
        list.set([weighted("a:1", 3), weighted("b:1", 1)]).unwrap();
        settle().await;
        let found = counts(&service, 8000).await;
        near(&found, "a:1", 0.75, tolerance);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_settle_by_weight_with_two_choices() {
    for algorithm in [Algorithm::P2cLeastRequest, Algorithm::P2cEwma] {
        let endpoints = vec![weighted("a:1", 1), weighted("b:1", 2), weighted("c:1", 5)];
        let (layer, _list) = layer(endpoints, with(algorithm));
        let service = service(layer.clone());
        settle().await;
        for address in ["a:1", "b:1", "c:1"] {
            let handle = handle(&layer, address);
            let now = tower_mesh_core::Tick::of(tokio::time::Instant::now().into_std());
            let decay = tower_mesh_core::ewma::Decay::new(Duration::from_secs(10));
            handle.observe_latency(handle.latency_epoch(), now, 1_000_000, decay);
        }
        let mut held: Vec<_> = (0..800).map(|_| Box::pin(service.clone().call(true))).collect();
        for call in &mut held {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
        }
        for (address, expected) in [("a:1", 100.0), ("b:1", 200.0), ("c:1", 500.0)] {
            let found = handle(&layer, address).counts().in_flight() as f64;
            assert!((found - expected).abs() / expected < 0.1, "{algorithm:?} {address}: {found}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_choices_are_two_so_the_busier_of_two_endpoints_gets_nothing() {
    for algorithm in [Algorithm::P2cEwma, Algorithm::P2cLeastRequest] {
        let (layer, _list) = layer(plain(2), with(algorithm));
        let service = service(layer);
        settle().await;
        let mut held = Box::pin(service.clone().call(true));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(held.as_mut().poll(&mut cx).is_pending());
        let found = counts(&service, 1000).await;
        assert_eq!(found.len(), 1, "one compared with itself would be picked in a quarter: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_algorithm_skips_what_is_unavailable_and_what_the_call_has_tried() {
    for (name, algorithm) in Algorithm::ALL {
        let (layer, _list) = layer(plain(4), with(algorithm));
        let mut service = service(layer.clone());
        settle().await;
        handle(&layer, "e0:1").set(Reason::CircuitOpen);
        let found = counts(&service, 400).await;
        assert!(!found.contains_key("e0:1") && found.len() == 3, "{name} {found:?}");

        let mut call = CallContext::new().with_hash_key(7);
        let mut seen = Vec::new();
        for _ in 0..3 {
            call.next_attempt();
            let mut attempt = Box::pin(call.lend(|| service.call(false)));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            match call.lend(|| attempt.as_mut().poll(&mut cx)) {
                std::task::Poll::Ready(answer) => seen.push(answer.unwrap()),
                std::task::Poll::Pending => unreachable!("answered at once"),
            }
        }
        seen.sort();
        assert_eq!(seen, ["e1:1", "e2:1", "e3:1"], "{name}: each attempt goes elsewhere");
        call.lend(|| drop(service.call(false)));

        for address in ["e1:1", "e2:1", "e3:1"] {
            handle(&layer, address).set(Reason::CircuitOpen);
        }
        let error = service.call(false).await.unwrap_err();
        assert!(find::<NoEndpoints>(&*error).is_some(), "{name}");
    }
}

/// Which endpoint each of 2000 keys goes to.
async fn owners<S>(service: &S) -> Vec<String>
where
    S: Service<u64, Response = String, Error = BoxError> + Clone,
{
    let mut service = service.clone();
    let mut owners = Vec::new();
    for key in 0..2000_u64 {
        owners.push(service.call(key).await.unwrap());
    }
    owners
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_with_its_endpoint_and_a_change_moves_about_one_share() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let (layer, list) = layer(plain(20), with(algorithm));
        let balance = service(layer.clone());
        let service = ServiceBuilder::new()
            .layer(HashKeyLayer::new(|key: &u64| hash(&key.to_le_bytes())))
            .map_request(|_: u64| false)
            .service(balance);
        settle().await;
        let before = owners(&service).await;
        assert_eq!(before, owners(&service).await);

        let moved = |after: &[String]| before.iter().zip(after).filter(|(a, b)| a != b).count();
        handle(&layer, "e3:1").set(Reason::CircuitOpen);
        let own = before.iter().filter(|&address| address == "e3:1").count();
        assert_eq!(moved(&owners(&service).await), own, "only its own, while it is unavailable");
        handle(&layer, "e3:1").clear(Reason::CircuitOpen);

        list.set(plain(20).into_iter().filter(|endpoint| endpoint.address() != "e3:1")).unwrap();
        settle().await;
        let gone = moved(&owners(&service).await);
        assert!((own..own + 60).contains(&gone), "{algorithm:?}: {gone} of 2000 moved, {own} had to");
        list.set(plain(21)).unwrap();
        settle().await;
        let more = moved(&owners(&service).await);
        assert!((50..200).contains(&more), "{algorithm:?}: {more} of 2000 moved, about 95 have to");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_with_its_endpoint_while_two_levels_share_the_calls() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let (layer, _list) = layer(in_levels(&[4, 4]), with(algorithm));
        let balance = service(layer.clone());
        let service = ServiceBuilder::new()
            .layer(HashKeyLayer::new(|key: &u64| hash(&key.to_le_bytes())))
            .map_request(|_: u64| false)
            .service(balance);
        settle().await;
        handle(&layer, "p0-0:1").set(Reason::ProbeDown);
        handle(&layer, "p0-1:1").set(Reason::ProbeDown);
        let before = owners(&service).await;
        assert_eq!(before, owners(&service).await);
        let first = before.iter().filter(|address| address.starts_with("p0")).count();
        assert!((1300..1500).contains(&first), "70 % of 2000: {first}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_call_that_is_wanted_is_not_long_in_coming() {
    let (layer, _list) = layer(plain(10), DiscoveryConfig::builder());
    let service = service(layer.clone());
    settle().await;
    let now = tower_mesh_core::Tick::of(tokio::time::Instant::now().into_std());
    let mut waits = 0;
    for _ in 0..400 {
        handle(&layer, "e0:1").open_circuit(now, Some(now), false);
        while !counts(&service, 1).await.contains_key("e0:1") {
            waits += 1;
        }
        handle(&layer, "e0:1").close_circuit();
    }
    // Drawn in a fifth of the pairs, of which it wins at least half.
    assert!(waits <= 400 * 10, "{waits} calls went elsewhere before 400 trials");
}

#[tokio::test(start_paused = true)]
async fn with_bounded_load_one_popular_key_spreads() {
    for algorithm in [Algorithm::RingHash, Algorithm::Maglev] {
        let (layer, _list) = layer(plain(5), with(algorithm).hash_balance_factor(150));
        let service =
            ServiceBuilder::new().layer(HashKeyLayer::new(|_: &bool| 7)).service(service(layer.clone()));
        settle().await;
        let mut held: Vec<_> = (0..100).map(|_| Box::pin(service.clone().call(true))).collect();
        for call in &mut held {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
        }
        let most = layer.status().endpoints.iter().map(|endpoint| endpoint.counts().in_flight()).max();
        assert_eq!(most, Some(30), "150 % of a fifth of 100");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_level_is_used_as_far_as_the_first_falls_short() {
    for (_, algorithm) in Algorithm::ALL {
        let (layer, _list) = layer(in_levels(&[4, 4]), with(algorithm));
        let service = service(layer.clone());
        settle().await;
        assert_eq!(share(&counts(&service, 500).await, "p0"), 1.0);
        handle(&layer, "p0-0:1").set(Reason::ProbeDown);
        assert_eq!(share(&counts(&service, 500).await, "p0"), 1.0, "three of four carry everything");
        handle(&layer, "p0-1:1").set(Reason::ProbeDown);
        let found = counts(&service, 4000).await;
        assert!((share(&found, "p0") - 0.7).abs() < 0.04, "{found:?}");
        handle(&layer, "p0-2:1").set(Reason::ProbeDown);
        handle(&layer, "p0-3:1").set(Reason::ProbeDown);
        assert_eq!(share(&counts(&service, 500).await, "p1"), 1.0);
        (0..4).for_each(|i| {
            handle(&layer, &format!("p0-{i}:1")).clear(Reason::ProbeDown);
        });
        assert_eq!(share(&counts(&service, 500).await, "p0"), 1.0, "and back");
    }
}

#[tokio::test(start_paused = true)]
async fn degraded_endpoints_get_what_the_others_cannot_carry() {
    let (layer, _list) = layer(in_levels(&[10]), with(Algorithm::Random));
    let service = service(layer.clone());
    settle().await;
    handle(&layer, "p0-0:1").set(Reason::Degraded);
    assert!(!counts(&service, 1000).await.contains_key("p0-0:1"));
    (0..5).for_each(|i| {
        handle(&layer, &format!("p0-{i}:1")).set(Reason::Degraded);
    });
    let found = counts(&service, 4000).await;
    let degraded: f64 = (0..5).map(|i| share(&found, &format!("p0-{i}"))).sum();
    assert!((degraded - 0.3).abs() < 0.04, "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn in_panic_probes_are_not_believed_but_circuits_are() {
    for (threshold, used) in [(50, 4), (0, 2)] {
        let config = DiscoveryConfig::builder().panic_threshold(threshold);
        let (layer, _list) = layer(plain(5), config);
        let service = service(layer.clone());
        settle().await;
        handle(&layer, "e0:1").set(Reason::CircuitOpen);
        handle(&layer, "e1:1").set(Reason::ProbeDown);
        let found = counts(&service, 500).await;
        assert_eq!(found.len(), 3, "three of five are not below half: {found:?}");
        handle(&layer, "e2:1").set(Reason::Ejected);
        let found = counts(&service, 500).await;
        assert_eq!(found.len(), used, "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_own_locality_is_preferred_as_far_as_it_carries_its_part() {
    let zone = |zone: &'static str, n: usize| {
        (0..n).map(move |i| weighted(&format!("{zone}{i}:1"), 1).with_locality(zone).unwrap())
    };
    let endpoints = zone("a", 4).chain(zone("b", 4)).chain(zone("c", 4)).collect();
    let (layer, _list) = layer(endpoints, with(Algorithm::RoundRobin));
    let layer = layer.locality("a");
    let service = service(layer.clone());
    settle().await;
    assert_eq!(share(&counts(&service, 600).await, "a"), 1.0);
    handle(&layer, "a0:1").set(Reason::ProbeDown);
    handle(&layer, "a1:1").set(Reason::ProbeDown);
    // 2 of 10 where 1 of 3 would be its part.
    let found = counts(&service, 6000).await;
    assert!((share(&found, "a") - 0.6).abs() < 0.03, "{found:?}");
    assert!((share(&found, "b") - 0.2).abs() < 0.03, "{found:?}");
    handle(&layer, "a2:1").set(Reason::ProbeDown);
    handle(&layer, "a3:1").set(Reason::ProbeDown);
    assert_eq!(share(&counts(&service, 600).await, "a"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_called_at_once_and_its_share_grows() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random] {
        let config = with(algorithm).slow_start_window(Duration::from_secs(100));
        let (layer, list) = layer(plain(1), config);
        let service = service(layer.clone());
        settle().await;
        tokio::time::advance(Duration::from_secs(200)).await;
        counts(&service, 10).await;
        assert!(!handle(&layer, "e0:1").availability().contains(Reason::Warming));

        list.set(plain(2)).unwrap();
        settle().await;
        let newcomer = handle(&layer, "e1:1");
        assert!(newcomer.availability().contains(Reason::Warming));
        counts(&service, 20).await;
        assert!(newcomer.counts().started > 0, "{algorithm:?}");
        // A factor f makes f/(1+f) of the calls.
        for (at, share) in [(20_u64, 1.0 / 6.0), (50, 1.0 / 3.0), (100, 0.5)] {
            let elapsed = at - [0, 20, 50][[20, 50, 100].iter().position(|&x| x == at).unwrap()];
            tokio::time::advance(Duration::from_secs(elapsed)).await;
            near(&counts(&service, 8000).await, "e1:1", share, 0.03);
        }
        assert!(!newcomer.availability().contains(Reason::Warming));

        newcomer.set(Reason::ProbeDown);
        assert_eq!(counts(&service, 100).await.len(), 1);
        newcomer.clear(Reason::ProbeDown);
        tokio::time::advance(Duration::from_secs(1)).await;
        near(&counts(&service, 8000).await, "e1:1", 0.1 / 1.1, 0.03);
        assert!(newcomer.availability().contains(Reason::Warming), "who is back begins anew");
    }
}

/// Two choices go by calls in flight, so shares show where calls overlap: a factor f makes f/(3+f) of them beside three others.
#[tokio::test(start_paused = true)]
async fn with_two_choices_the_share_of_a_newcomer_grows_as_its_factor_does() {
    for algorithm in [Algorithm::P2cEwma, Algorithm::P2cLeastRequest] {
        let (layer, list) = layer(plain(3), with(algorithm).slow_start_window(Duration::from_secs(100)));
        let service = layer.clone().connect(|endpoint: &EndpointHandle| {
            let address = endpoint.endpoint().address().to_owned();
            service_fn(move |()| {
                let address = address.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok::<_, BoxError>(address)
                }
            })
        });
        settle().await;
        // 400 callers at once, 20 calls each: two seconds.
        let calls = || async {
            let caller = || async {
                let (mut service, mut found) = (service.clone(), Vec::new());
                for _ in 0..20 {
                    found.push(service.call(()).await.unwrap());
                }
                found
            };
            let mut counts = HashMap::new();
            for address in futures_util::future::join_all((0..400).map(|_| caller())).await.concat() {
                *counts.entry(address).or_default() += 1;
            }
            counts
        };
        tokio::time::advance(Duration::from_secs(200)).await;
        near(&calls().await, "e2:1", 1.0 / 3.0, 0.03);

        let began = tokio::time::Instant::now();
        list.set(plain(4)).unwrap();
        settle().await;
        for (at, factor) in [(5, 0.1), (25, 0.25), (50, 0.5), (75, 0.75), (101, 1.0)] {
            tokio::time::sleep_until(began + Duration::from_secs(at - 1)).await;
            near(&calls().await, "e3:1", factor / (3.0 + factor), 0.02);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_subset_of_each_level_is_used_and_hardly_changes() {
    let config = DiscoveryConfig::builder().subset_size(5).algorithm(Algorithm::RoundRobin);
    let (layer, list) = layer(plain(50), config);
    let service = service(layer.clone().subset_seed(11));
    settle().await;
    let before = counts(&service, 500).await;
    assert!(before.len() == 5 && before.values().all(|&n| n == 100), "{before:?}");
    assert_eq!(layer.status().endpoints.len(), 50, "all are known");
    let gone = before.keys().next().unwrap().clone();
    list.set(plain(50).into_iter().filter(|endpoint| *endpoint.address() != gone)).unwrap();
    settle().await;
    let after = counts(&service, 500).await;
    assert_eq!(after.keys().filter(|address| before.contains_key(*address)).count(), 4);
    let other = self::service(layer.subset_seed(12));
    settle().await;
    assert_ne!(counts(&other, 500).await, after, "another client uses others");
}

#[tokio::test(start_paused = true)]
async fn a_picker_of_the_users_own_is_asked_and_made_anew_with_each_change() {
    let (layer, list) = layer(plain(3), DiscoveryConfig::builder());
    let layer = layer.pick_with(|endpoints: &[EndpointHandle]| {
        let last = endpoints.len() - 1;
        move |among: &Candidates<'_>| {
            assert_eq!((among.weight(0), among.in_flight(0)), (1.0, 0));
            (0..=last).rev().find(|&i| among.may_use(i))
        }
    });
    let service = service(layer.clone());
    settle().await;
    assert_eq!(counts(&service, 50).await.keys().collect::<Vec<_>>(), ["e2:1"]);
    handle(&layer, "e2:1").set(Reason::Draining);
    assert_eq!(counts(&service, 50).await.keys().collect::<Vec<_>>(), ["e1:1"]);
    list.set(plain(1)).unwrap();
    settle().await;
    assert_eq!(counts(&service, 50).await.keys().collect::<Vec<_>>(), ["e0:1"]);
}

/// Every call made while a picker is being made is answered by the set before, so that however long that takes nothing waits for it.
#[tokio::test(start_paused = true)]
async fn calls_go_on_with_the_set_before_while_a_table_is_made() {
    type Call = Box<dyn Fn() -> String + Send + Sync>;
    let (layer, list) = layer(plain(1), DiscoveryConfig::builder());
    let (call, seen) = (Arc::new(OnceLock::<Call>::new()), Arc::new(Mutex::new(Vec::new())));
    let layer = layer.pick_with({
        let (call, seen) = (call.clone(), seen.clone());
        move |endpoints: &[EndpointHandle]| {
            if let Some(call) = call.get() {
                seen.lock().unwrap().extend((0..3).map(|_| call()));
            }
            let last = endpoints.len().saturating_sub(1);
            move |_: &Candidates<'_>| Some(last)
        }
    });
    let service = layer.connect(|endpoint: &EndpointHandle| {
        let address = endpoint.endpoint().address().to_owned();
        service_fn(move |_: bool| std::future::ready(Ok::<_, BoxError>(address.clone())))
    });
    settle().await;
    let caller = service.clone();
    let at_once = move || {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut answer = Box::pin(caller.clone().call(false));
        match answer.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(answer) => answer.unwrap(),
            std::task::Poll::Pending => "it waited".to_owned(),
        }
    };
    assert!(call.set(Box::new(at_once.clone())).is_ok());
    list.set(plain(2)).unwrap();
    settle().await;
    assert_eq!(*seen.lock().unwrap(), ["e0:1"; 3]);
    assert_eq!(at_once(), "e1:1", "and then by the new one");
}

#[tokio::test(start_paused = true)]
async fn what_a_picker_may_not_choose_counts_as_none() {
    let (layer, _list) = layer(plain(2), DiscoveryConfig::builder());
    let layer = layer.pick_with(|_: &[EndpointHandle]| |among: &Candidates<'_>| Some(among.len()));
    let mut service = service(layer);
    settle().await;
    let error = service.call(false).await.unwrap_err();
    assert!(find::<NoEndpoints>(&*error).is_some());
}

thread_local! {
    /// The services that memory was asked for, by the keys of their endpoints.
    static ASKED_FOR: std::cell::RefCell<Vec<u32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A service that answers its endpoint's key.
#[derive(Clone)]
struct Keyed(u32);

impl Service<()> for Keyed {
    type Response = u32;
    type Error = BoxError;
    type Future = std::future::Ready<Result<u32, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(self.0))
    }
}

struct Stack;

impl<S> PerEndpoint<S> for Stack {
    type Service = Keyed;
    const PREFETCH: Option<fn(&Keyed)> = Some(|service| ASKED_FOR.with_borrow_mut(|all| all.push(service.0)));

    fn layer(&self, endpoint: &EndpointHandle, _service: S) -> Keyed {
        Keyed(endpoint.key())
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_endpoints_those_of_the_next_call_are_asked_for_while_one_is_made() {
    for (endpoints, asked) in [(100, 0), (101, 2), (3000, 2)] {
        let (layer, _list) = layer(plain(endpoints), DiscoveryConfig::builder());
        let mut service = layer.endpoint_stack(Stack).layer(());
        settle().await;
        ASKED_FOR.take();
        service.call(()).await.unwrap();
        for _ in 0..1000 {
            let before = ASKED_FOR.take();
            assert_eq!(before.len(), asked, "of {endpoints}");
            let key = service.call(()).await.unwrap();
            assert!(asked == 0 || before.contains(&key), "of {endpoints}");
        }
    }
}
