use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use futures_util::task::noop_waker;
use tokio::time::{advance, sleep};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_core::classify::{self, ByResult, Origin, Retry as MayRetry, Verdict};
use tower_mesh_core::replay::{Idempotent, NotIdempotent};
use tower_mesh_core::{BoxError, CallContext, CallOptions, DropReason, Endpoint, EndpointHandle};
use tower_service::Service;

use super::*;
use crate::config::{BudgetConfig, HedgeConfig, HedgeConfigBuilder};
use crate::test_inner::{Down, Inner, SEC, Tell, Told, down};
use crate::timer::clock;
use crate::{DeadlineConfig, DeadlineLayer, RetryBudget};

fn every(delay: Duration, hedges: u32) -> HedgeConfigBuilder {
    HedgeConfig::builder().max_hedges(hedges).delay(delay)
}

fn layer(config: HedgeConfigBuilder) -> HedgeLayer<ByResult, Idempotent> {
    HedgeLayer::new(config.build().unwrap(), ByResult).replay(Idempotent)
}

/// Attempt number `n` answers after `seconds[n - 1]`, with an error where that is negative.
fn scripted(seconds: &'static [i64]) -> Inner<(), u32> {
    Inner::new(move |n, ()| {
        let seconds = seconds[n as usize - 1];
        async move {
            sleep(Duration::from_secs(seconds.unsigned_abs())).await;
            if seconds < 0 { down(n) } else { Ok(n) }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_first_good_answer_wins_and_the_others_are_told_that_they_lost() {
    let told = Told::default();
    let seen = told.clone();
    let inner = Inner::new(move |n, ()| {
        let tell = Tell::new(&seen);
        async move {
            sleep(if n == 2 { 3 * SEC / 2 } else { 60 * SEC }).await;
            drop(tell);
            Ok(n)
        }
    });
    let layer = layer(every(SEC, 3).max_hedges(3));
    let start = clock();
    assert_eq!(layer.layer(inner.clone()).oneshot(()).await.unwrap(), 2);
    assert_eq!((clock().since(start), inner.waits()), (5 * SEC / 2, vec![SEC, SEC]));
    assert_eq!(
        *told.lock().unwrap(),
        [DropReason::CallerGone, DropReason::HedgeLost, DropReason::HedgeLost],
        "the winner ended by itself"
    );
    let budget = layer.get_budget().snapshot(clock());
    assert_eq!((budget.granted, budget.in_flight), (2, 0));
}

#[test]
fn what_a_hedge_needs_is_not_moved_with_each_call_that_has_none() {
    fn size_of_call<S: Service<()>>(_: &S) -> usize {
        size_of::<S::Future>()
    }
    let inner = scripted(&[1]);
    assert!(
        size_of_call(&layer(every(SEC, 1)).layer(inner.clone()))
            <= size_of_call(&inner) + 2 * size_of::<usize>()
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_not_hedged() {
    let inner = scripted(&[1]);
    let layer = layer(every(2 * SEC, 1));
    assert_eq!(layer.layer(inner.clone()).oneshot(()).await.unwrap(), 1);
    assert_eq!((inner.calls(), inner.values()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_does_not_end_the_call_and_the_next_starts_at_once() {
    let inner = scripted(&[-1, -5, 3]);
    assert_eq!(layer(every(4 * SEC, 2)).layer(inner.clone()).oneshot(()).await.unwrap(), 3);
    // The first fails at 1; the second starts then and is still out at 5, when the third starts.
    assert_eq!(inner.waits(), [SEC, 4 * SEC]);

    let inner = scripted(&[-1, -2, -3]);
    let error = layer(every(4 * SEC, 2)).layer(inner.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Down(3)), "the last failure is the answer");
    assert_eq!(inner.waits(), [SEC, 2 * SEC]);
}

#[tokio::test(start_paused = true)]
async fn a_fatal_answer_of_any_attempt_ends_the_call() {
    let inner = scripted(&[60, -1]);
    let fatal = classify::by(|result: Result<&u32, &(dyn std::error::Error + 'static)>| match result {
        Ok(_) => Verdict::SUCCESS,
        Err(_) => Verdict::failure(Origin::Remote, MayRetry::Never),
    });
    let layer = HedgeLayer::new(every(SEC, 3).build().unwrap(), fatal).replay(Idempotent);
    let start = clock();
    assert!(layer.layer(inner.clone()).oneshot(()).await.is_err());
    assert_eq!((clock().since(start), inner.calls()), (2 * SEC, 2), "none starts once the answer is there");
}

#[tokio::test(start_paused = true)]
async fn pushback_moves_the_next_or_forbids_it_and_leaves_alone_what_is_out() {
    let asked = |wait: Option<Duration>, retry| {
        classify::by(move |result: Result<&u32, &(dyn std::error::Error + 'static)>| match result {
            Ok(_) => Verdict::SUCCESS,
            Err(_) => Verdict { retry, ..Verdict::failure(Origin::Overload, retry).with_wait(wait) },
        })
    };
    let inner = scripted(&[20, -1, 1]);
    let later = asked(Some(10 * SEC), MayRetry::IfIdempotent);
    let layer = HedgeLayer::new(every(4 * SEC, 2).build().unwrap(), later).replay(Idempotent);
    assert_eq!(layer.layer(inner.clone()).oneshot(()).await.unwrap(), 3);
    assert_eq!(inner.waits(), [4 * SEC, 11 * SEC], "ten seconds after it said so");

    let inner = scripted(&[20, -1]);
    let never = asked(None, MayRetry::Forbidden);
    let layer = HedgeLayer::new(every(4 * SEC, 2).build().unwrap(), never).replay(Idempotent);
    assert_eq!(layer.layer(inner.clone()).oneshot(()).await.unwrap(), 1);
    assert_eq!(inner.calls(), 2);

    let inner = scripted(&[-1, 1]);
    let start = clock();
    let layer = HedgeLayer::new(every(4 * SEC, 2).build().unwrap(), later).replay(Idempotent);
    assert_eq!(layer.layer(inner.clone()).oneshot(()).await.unwrap(), 2, "waited for with nothing out");
    assert_eq!(clock().since(start), 12 * SEC);
    let within = DeadlineConfig::builder().timeout(8 * SEC).build().unwrap();
    let (inner, start) = (scripted(&[-1, 1]), clock());
    let error = DeadlineLayer::new(within).layer(layer.layer(inner)).oneshot(()).await.unwrap_err();
    assert_eq!(
        (error.downcast_ref(), clock().since(start)),
        (Some(&Down(1)), SEC),
        "not if it cannot be in time"
    );
}

#[tokio::test(start_paused = true)]
async fn without_budget_there_is_no_hedge_and_the_first_attempt_needs_none() {
    let nothing = BudgetConfig::builder().ratio(0.0).min_per_second(0).min_concurrency(0).build().unwrap();
    let broke = |inner: &Inner<(), u32>| {
        layer(every(SEC, 4)).budget(RetryBudget::new(nothing)).layer(inner.clone()).oneshot(())
    };
    let inner = scripted(&[10]);
    assert_eq!(broke(&inner).await.unwrap(), 1);
    assert_eq!(inner.calls(), 1);
    let inner = scripted(&[-1]);
    assert_eq!(broke(&inner).await.unwrap_err().downcast_ref(), Some(&Down(1)), "a failure is not lost");
}

#[tokio::test(start_paused = true)]
async fn one_call_in_five_is_hedged_at_most_however_slow_all_are() {
    let budget = BudgetConfig::builder().ratio(0.2).min_per_second(0).min_concurrency(0).build().unwrap();
    let layer = layer(every(Duration::from_millis(1), 1)).budget(RetryBudget::new(budget));
    let inner = Inner::new(|_, ()| async {
        sleep(SEC).await;
        Ok(())
    });
    let service = layer.layer(inner.clone());
    futures_util::future::join_all((0..100).map(|_| service.clone().oneshot(()))).await;
    assert_eq!(inner.calls(), 120);
    let shared = layer.get_budget().clone();
    let counted = layer.counted_outside();
    assert!(counted.layer(inner).oneshot(()).await.is_ok());
    assert_eq!(shared.snapshot(clock()).balance, 0, "that call has not been deposited");
}

#[tokio::test(start_paused = true)]
async fn what_may_do_harm_or_cannot_be_copied_is_not_hedged() {
    let inner = scripted(&[10]);
    let layer = layer(every(SEC, 4));
    assert_eq!(layer.clone().replay(NotIdempotent).layer(inner.clone()).oneshot(()).await.unwrap(), 1);
    assert_eq!(inner.calls(), 1);
    let inner = scripted(&[10]);
    let off = layer.clone();
    off.live().reload(every(SEC, 0).build().unwrap());
    assert_eq!(off.layer(inner.clone()).oneshot(()).await.unwrap(), 1);
    assert_eq!(inner.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_an_attempt_of_those_that_the_call_may_have() {
    for (attempts, attempt, calls) in [(1, 1, 1), (3, 1, 3), (3, 2, 2), (3, 4, 1), (9, 1, 5)] {
        let inner = scripted(&[10, 10, 10, 10, 10]);
        let mut hedge = layer(every(SEC, 4)).layer(inner.clone());
        let options = CallOptions::new().max_attempts(attempts);
        let mut context = CallContext::new().with_options(options);
        context.set_attempt(attempt);
        let ready = hedge.ready().await.unwrap();
        assert_eq!(context.lend(|| ready.call(())).await.unwrap(), 1);
        assert_eq!(inner.calls(), calls, "{attempts} {attempt}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_hedge_knows_where_the_others_went() {
    let endpoints = ["a:1", "b:1", "c:1"].map(|id| EndpointHandle::new(Endpoint::new(id).unwrap()));
    let keys = endpoints.each_ref().map(|endpoint| endpoint.key());
    let inner = Inner::<(), ()>::new(move |n, ()| {
        let n = n as usize;
        let tried = CallContext::with(|call| {
            let tried = call.tried();
            call.add_tried(endpoints[n - 1].key());
            tried
        });
        assert_eq!(tried.unwrap().keys(), &keys[..n - 1]);
        async move {
            sleep(if n == 3 { SEC } else { 60 * SEC }).await;
            Ok(())
        }
    });
    // With no delay all start in the same poll.
    let mut owner = CallContext::new();
    let service = layer(every(Duration::ZERO, 2)).layer(inner);
    let mut call = Box::pin(owner.lend(|| service.oneshot(())));
    assert!(futures_util::future::poll_fn(|cx| owner.lend(|| call.as_mut().poll(cx))).await.is_ok());
    assert_eq!(owner.tried().keys(), keys, "so does a retry outside");
}

#[tokio::test(start_paused = true)]
async fn each_hedge_makes_a_clone_of_its_own_ready_and_waits_no_longer_than_it_may() {
    let pending_later = |asked| if asked == 1 { Poll::Ready(Ok(())) } else { Poll::Pending };
    let inner = Inner::with_readiness(pending_later, |n, ()| async move {
        sleep(10 * SEC).await;
        Ok(n)
    });
    let start = clock();
    assert_eq!(layer(every(SEC, 1)).layer(inner.clone()).oneshot(()).await.unwrap(), 1);
    assert_eq!((clock().since(start), inner.calls()), (10 * SEC, 1));

    let inner = Inner::<(), ()>::with_readiness(pending_later, |n, ()| async move {
        sleep(2 * SEC).await;
        down(n)
    });
    let start = clock();
    let error = layer(every(SEC, 1)).layer(inner.clone()).oneshot(()).await.unwrap_err();
    assert!(error.is::<crate::error::NotReady>());
    assert_eq!(clock().since(start), 4 * SEC, "a hedge that never gets ready holds the call no longer");

    let broken_later = |asked| Poll::Ready(if asked == 2 { down(0) } else { Ok(()) });
    let inner = Inner::with_readiness(broken_later, |n, ()| async move {
        sleep(10 * SEC).await;
        Ok(n)
    });
    let start = clock();
    assert_eq!(layer(every(SEC, 2)).layer(inner.clone()).oneshot(()).await.unwrap(), 1);
    assert_eq!(
        (clock().since(start), inner.waits()),
        (10 * SEC, vec![SEC]),
        "the next takes its place at once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_tells_every_attempt_why_and_leaves_nothing() {
    let request = Arc::new(());
    let told = Told::default();
    let seen = told.clone();
    let inner = Inner::<Arc<()>, ()>::new(move |_, request| {
        let tell = Tell::new(&seen);
        async move {
            pending::<()>().await;
            drop((tell, request));
            Ok(())
        }
    });
    let layer = layer(every(SEC, 2));
    let within = DeadlineLayer::new(DeadlineConfig::builder().timeout(5 * SEC).build().unwrap());
    assert!(within.layer(layer.layer(inner.clone())).oneshot(request.clone()).await.is_err());
    assert_eq!(*told.lock().unwrap(), [DropReason::DeadlineExceeded; 3]);
    assert_eq!((layer.get_budget().snapshot(clock()).in_flight, Arc::strong_count(&request)), (0, 1));

    told.lock().unwrap().clear();
    let mut call = Box::pin(layer.layer(inner.clone()).oneshot(request.clone()));
    assert!(poll!(&mut call).is_pending());
    advance(SEC).await;
    assert!(poll!(&mut call).is_pending());
    drop(call);
    assert_eq!(*told.lock().unwrap(), [DropReason::CallerGone; 2]);
    assert_eq!((Arc::strong_count(&request), inner.values()), (1, 1));
}

#[test]
fn what_is_ready_needs_no_timer_and_no_runtime() {
    let once = |inner: Inner<(), u32>, hedges| {
        let mut service = layer(every(SEC, hedges)).layer(inner);
        let waker = noop_waker();
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(service.poll_ready(&mut cx).is_ready());
        std::pin::pin!(service.call(())).poll(&mut cx)
    };
    assert!(matches!(once(Inner::new(|n, ()| async move { Ok(n) }), 1), Poll::Ready(Ok(1))));
    let at_once = Inner::new(|n, ()| async move { if n == 1 { down(n) } else { Ok(n) } });
    assert!(matches!(once(at_once, 1), Poll::Ready(Ok(2))), "nor does a hedge at once");
    assert!(once(Inner::new(|_, ()| pending()), 0).is_pending(), "nor what is not hedged");
    let armed = catch_unwind(AssertUnwindSafe(|| once(Inner::new(|_, ()| pending()), 1)));
    assert!(armed.is_err(), "without a runtime a timer would have shown");
}

#[tokio::test(start_paused = true)]
async fn the_delay_follows_the_latency_and_does_not_fall_with_the_hedges_that_win() {
    // Nine calls in ten take 100 ms, the tenth 5 s; a hedge answers after 100 ms.
    let inner = Inner::<u32, ()>::new(move |_, kind| async move {
        let first = CallContext::with(|call| call.tried().is_empty()) == Some(true);
        CallContext::with(|call| call.add_tried(7));
        sleep(if first && kind % 10 == 9 { 5 * SEC } else { SEC / 10 }).await;
        Ok(())
    });
    let config = every(60 * SEC, 1).percentile(0.85);
    let budget = BudgetConfig::builder().ratio(1.0).build().unwrap();
    let service = layer(config).budget(RetryBudget::new(budget)).layer(inner.clone());
    let mut longest = Duration::ZERO;
    for round in 0..20 {
        let start = clock();
        futures_util::future::join_all((0..60).map(|n| service.clone().oneshot(n))).await;
        if round >= 10 {
            longest = longest.max(clock().since(start));
        }
    }
    assert!(longest <= Duration::from_millis(220), "{longest:?}");
    let hedges = inner.calls() - 1200;
    assert!((100..=120).contains(&hedges), "only the slow ones, once the latency is known: {hedges}");
}

#[tokio::test(start_paused = true)]
async fn requests_need_not_be_clone_nor_futures_sync() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    struct NotClone;
    let service = tower::service_fn(|_: NotClone| {
        let not_sync = std::cell::Cell::new(1);
        async move { Ok::<_, BoxError>(not_sync.into_inner()) }
    });
    let layer = HedgeLayer::new(HedgeConfig::default(), ByResult).replay(tower_mesh_core::replay::Once);
    assert_eq!(send(layer.layer(service).oneshot(NotClone)).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn under_a_retry_with_the_same_budget_each_attempt_is_told_to_the_throttle_once() {
    let config = BudgetConfig::builder().max_tokens(100).token_ratio(0.5).build().unwrap();
    let budget = RetryBudget::new(config);
    let retry = crate::RetryConfig::builder().jitter(tower_mesh_core::backoff::Jitter::None).build().unwrap();
    let retry = crate::RetryLayer::new(retry, ByResult).replay(Idempotent).budget(budget.clone());
    let hedge = layer(every(SEC, 1)).budget(budget.clone()).counted_outside();
    let inner = Inner::new(|n, ()| async move { if n < 5 { down(n) } else { Ok(n) } });
    assert_eq!(retry.layer(hedge.layer(inner)).oneshot(()).await.unwrap(), 5);
    let after = budget.snapshot(clock());
    assert_eq!((after.milli_tokens, after.granted), (Some(96_500), 4), "two attempts hedged, a third not");
}

#[tokio::test(start_paused = true)]
async fn the_reason_reaches_the_hedges_of_a_first_attempt_that_began_anew() {
    let told = Told::default();
    let seen = told.clone();
    let inner = Inner::<(), ()>::new(move |n, ()| {
        let seen = seen.clone();
        async move {
            if n == 1 {
                sleep(SEC / 2).await;
                CallContext::restart_attempt(clock());
            }
            let tell = Tell::new(&seen);
            pending::<()>().await;
            drop(tell);
            Ok(())
        }
    });
    let within = DeadlineLayer::new(DeadlineConfig::builder().timeout(5 * SEC).build().unwrap());
    assert!(within.layer(layer(every(SEC, 1)).layer(inner)).oneshot(()).await.is_err());
    assert_eq!(*told.lock().unwrap(), [DropReason::DeadlineExceeded; 2]);
}

#[tokio::test(start_paused = true)]
async fn first_attempts_that_lose_count_with_the_time_they_had() {
    // First attempts take 100 ms to 1 s in equal shares; a hedge answers at once, so that whatever is hedged is lost.
    let inner = Inner::<u32, ()>::new(move |_, kind| async move {
        let first = CallContext::with(|call| call.tried().is_empty()) == Some(true);
        CallContext::with(|call| call.add_tried(7));
        sleep(if first { (kind % 10 + 1) * SEC / 10 } else { Duration::ZERO }).await;
        Ok(())
    });
    let budget = BudgetConfig::builder().ratio(1.0).build().unwrap();
    let layer = layer(every(2 * SEC, 1).percentile(0.75)).budget(RetryBudget::new(budget));
    let service = layer.layer(inner.clone());
    let mut before = 0;
    for round in 0..100 {
        if round == 50 {
            before = inner.calls();
        }
        futures_util::future::join_all((0..50).map(|n| service.clone().oneshot(n))).await;
    }
    let hedges = inner.calls() - before - 50 * 50;
    assert!((100..=750).contains(&hedges), "a quarter of 2500, not more and more of them: {hedges}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_failed_first_attempt_is_not_that_of_the_call() {
    for good in [2, 3] {
        let inner = Inner::new(move |n, ()| async move {
            let started = CallContext::attempt_started(clock);
            sleep(SEC).await;
            CallContext::attempt_ended(started, clock);
            if n < good { down(n) } else { Ok(n) }
        });
        let mut owner = CallContext::new();
        let service = layer(every(5 * SEC, 1)).layer(inner);
        let mut call = Box::pin(owner.lend(|| service.oneshot(())));
        let answer = futures_util::future::poll_fn(|cx| owner.lend(|| call.as_mut().poll(cx))).await;
        assert_eq!(answer.is_ok(), good == 2);
        assert_eq!(owner.ended(), None, "whoever asks reads the clock");
    }
}
