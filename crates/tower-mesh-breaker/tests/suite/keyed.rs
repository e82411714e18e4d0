//! A circuit for each key.

use std::num::NonZeroUsize;
use std::time::Duration;

use tokio_test::{assert_ready_ok, task};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_mesh_breaker::{BreakerConfig, BreakerLayer, CircuitOpen, KeyedBreakerLayer, State};
use tower_mesh_core::classify::ByResult;
use tower_mesh_core::{BoxError, error};
use tower_service::Service;

use crate::inner::{Ask, Inner};

struct Request {
    tenant: u32,
    good: bool,
}

type Keyed = KeyedBreakerLayer<u32, fn(&Request) -> u32, ByResult>;

fn keyed() -> Keyed {
    let config = BreakerConfig::builder().consecutive_failures(2).build().unwrap();
    BreakerLayer::new(config, ByResult).keyed((|request: &Request| request.tenant) as fn(&Request) -> u32)
}

async fn call(layer: &Keyed, tenant: u32, good: bool) -> Result<(), BoxError> {
    let inner = service_fn(|request: Request| async move {
        if request.good { Ok(()) } else { Err(BoxError::from("failed")) }
    });
    layer.layer(inner).oneshot(Request { tenant, good }).await
}

fn is_refusal(result: Result<(), BoxError>) -> bool {
    result.is_err_and(|error| error::find::<CircuitOpen>(&*error).is_some())
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_one_key_is_refused_for_that_key_only() {
    let layer = keyed();
    for _ in 0..2 {
        call(&layer, 1, false).await.unwrap_err();
        call(&layer, 2, true).await.unwrap();
    }
    assert!(is_refusal(call(&layer, 1, true).await));
    call(&layer, 2, true).await.unwrap();
    assert_eq!(layer.find(&1).unwrap().state(), State::Open);
    assert_eq!((layer.circuits().len(), layer.other().state()), (2, State::Closed));
    tokio::time::advance(Duration::from_secs(5)).await;
    for _ in 0..3 {
        call(&layer, 1, true).await.unwrap();
    }
    assert_eq!(layer.find(&1).unwrap().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn keys_without_room_share_a_circuit_until_others_have_been_idle() {
    let layer = keyed().max_keys(NonZeroUsize::new(10).unwrap()).idle_after(Duration::from_secs(60));
    for tenant in 0..1000 {
        call(&layer, tenant, tenant % 2 == 0).await.unwrap_or_default();
    }
    assert_eq!(layer.circuits().len(), 10);
    for tenant in [500, 501] {
        call(&layer, tenant, false).await.unwrap_err();
    }
    assert!(is_refusal(call(&layer, 502, true).await), "they share one");
    call(&layer, 0, true).await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    call(&layer, 0, true).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    call(&layer, 503, true).await.unwrap();
    let mut keys: Vec<_> = layer.circuits().into_iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    assert_eq!(keys, [0, 503], "the others made room");
}

#[tokio::test(start_paused = true)]
async fn a_reload_reaches_every_key() {
    let layer = keyed();
    call(&layer, 1, true).await.unwrap();
    let config = BreakerConfig::builder().consecutive_failures(1).build().unwrap();
    layer.reload(config);
    for tenant in [1, 2] {
        call(&layer, tenant, false).await.unwrap_err();
        assert!(is_refusal(call(&layer, tenant, true).await));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_leaves_the_inner_service_ready_and_a_clone_starts_without() {
    let inner = Inner::default();
    let config = BreakerConfig::builder().consecutive_failures(1).build().unwrap();
    let layer = BreakerLayer::new(config, ByResult).keyed(|ask: &Ask| matches!(ask, Ask::Fail));
    let mut service = task::spawn(layer.layer(inner.clone()));
    assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    service.call(Ask::Fail).await.unwrap_err();
    assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    service.call(Ask::Fail).await.unwrap_err();
    assert_eq!(inner.called(), 1, "refused");
    service.call(Ask::Succeed).await.unwrap();
    assert_eq!(inner.called(), 2, "the inner service was ready still");
    assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    let mut clone = service.clone();
    let unready = std::panic::AssertUnwindSafe(|| drop(clone.call(Ask::Succeed)));
    assert!(std::panic::catch_unwind(unready).is_err());
}

/// However many threads bring keys, no more are there than may, and each call goes by one circuit.
#[test]
fn the_bound_holds_under_threads() {
    let layer = keyed().max_keys(NonZeroUsize::new(50).unwrap());
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let layer = &layer;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..500 {
                        call(layer, random.u32(0..200), true).await.unwrap();
                    }
                });
            });
        }
    });
    assert_eq!(layer.circuits().len(), 50);
    let counted = layer.circuits().into_iter().map(|(_, circuit)| circuit);
    let now = crate::inner::now();
    let total: u64 =
        counted.chain([layer.other().clone()]).map(|circuit| circuit.snapshot(now).counts.total).sum();
    assert_eq!(total, 8 * 500);
}
