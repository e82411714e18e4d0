use std::collections::HashSet;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use futures_util::task::noop_waker;
use tokio::time::{advance, sleep};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_core::backoff::Jitter;
use tower_mesh_core::classify::{self, ByResult, Origin, Retry as MayRetry, Verdict};
use tower_mesh_core::error::{Judged, find};
use tower_mesh_core::replay::{Idempotent, NotIdempotent, Once};
use tower_mesh_core::{BoxError, CallContext, DropReason, Endpoint, EndpointHandle};
use tower_service::Service;

use super::*;
use crate::config::{BudgetConfig, RetryConfig, RetryConfigBuilder};
use crate::error::{AttemptTimedOut, DeadlineExceeded, NotReady, RetriesExhausted, StopReason};
use crate::test_inner::{Down, Inner, SEC, Tell, Told, down};
use crate::timer::clock;
use crate::{DeadlineConfig, DeadlineLayer, RetryBudget};

type Layered<R = Idempotent> = RetryLayer<ByResult, R>;

/// Waits of exactly 1, 2, 4 … seconds.
fn exact() -> RetryConfigBuilder {
    RetryConfig::builder().jitter(Jitter::None)
}

fn layer(config: RetryConfigBuilder) -> Layered {
    RetryLayer::new(config.build().unwrap(), ByResult).replay(Idempotent)
}

fn within(timeout: Duration) -> DeadlineLayer {
    DeadlineLayer::new(DeadlineConfig::builder().timeout(timeout).build().unwrap())
}

fn exhausted(error: &BoxError) -> (u32, StopReason) {
    let exhausted = error.downcast_ref::<RetriesExhausted>().expect("wrapped");
    (exhausted.attempts(), exhausted.reason())
}

#[tokio::test(start_paused = true)]
async fn fails_twice_waits_twice_and_answers() {
    let inner = Inner::new(|n, ()| async move { if n < 3 { down(n) } else { Ok(n) } });
    let answer = layer(exact()).layer(inner.clone()).oneshot(()).await;
    assert_eq!(answer.unwrap(), 3);
    assert_eq!(inner.waits(), [SEC, 2 * SEC]);
}

#[tokio::test(start_paused = true)]
async fn exhausted_on_an_error_it_says_so_and_shows_the_last_one() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let error = layer(exact()).layer(inner).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (3, StopReason::Attempts));
    assert_eq!(find::<Down>(&*error), Some(&Down(3)));
    assert_eq!(find::<Judged>(&*error).unwrap().verdict().retry, MayRetry::Never);
    assert!(!error.to_string().contains("down"), "the source tells that");
}

#[tokio::test(start_paused = true)]
async fn exhausted_on_a_response_it_gives_that_response() {
    let inner = Inner::new(|n, ()| async move { Ok(n) });
    let all_bad = classify::by(|_: Result<&u32, _>| Verdict::failure(Origin::Remote, MayRetry::IfIdempotent));
    let layer = RetryLayer::new(RetryConfig::default(), all_bad).replay(Idempotent);
    assert_eq!(layer.layer(inner).oneshot(()).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_error_after_which_there_was_nothing_to_try_comes_out_as_it_is() {
    let inner = || Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let once = layer(exact().max_attempts(1)).layer(inner()).oneshot(()).await;
    let spent = layer(exact()).replay(Once).layer(inner()).oneshot(()).await;
    let harmful = layer(exact()).replay(NotIdempotent).layer(inner()).oneshot(()).await;
    let never = classify::by(|_: Result<&(), _>| Verdict::failure(Origin::Remote, MayRetry::Never));
    let never = RetryLayer::new(RetryConfig::default(), never).replay(Idempotent);
    let hopeless = never.layer(inner()).oneshot(()).await;
    for result in [once, spent, harmful, hopeless] {
        assert_eq!(*result.unwrap_err().downcast::<Down>().unwrap(), Down(1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_certainly_not_processed_is_sent_again_though_not_idempotent() {
    let inner = Inner::new(|n, ()| async move {
        match n {
            1 => Err(Judged::because(Verdict::REFUSED, Down(n)).into()),
            n => Ok(n),
        }
    });
    let layer = layer(exact()).replay(NotIdempotent);
    assert_eq!(layer.layer(inner).oneshot(()).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn nested_retries_do_not_multiply() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let nested = layer(exact()).layer(layer(exact()).layer(inner.clone()));
    let error = nested.oneshot(()).await.unwrap_err();
    assert_eq!(inner.calls(), 3);
    assert_eq!(exhausted(&error), (3, StopReason::Attempts));
}

#[tokio::test(start_paused = true)]
async fn the_rejected_response_and_its_future_are_gone_before_the_wait() {
    let alive = Arc::new(());
    let held = alive.clone();
    let inner = Inner::new(move |n, ()| {
        let (in_future, in_response) = (held.clone(), (n, held.clone()));
        async move {
            let _in_future = &in_future;
            Ok(in_response)
        }
    });
    let classifier = classify::by(|result: Result<&(u32, Arc<()>), _>| match result {
        Ok((1, _)) => Verdict::failure(Origin::Remote, MayRetry::IfIdempotent),
        _ => Verdict::SUCCESS,
    });
    let layer = RetryLayer::new(exact().build().unwrap(), classifier).replay(Idempotent);
    let mut call = std::pin::pin!(layer.layer(inner.clone()).oneshot(()));
    assert!(poll!(&mut call).is_pending());
    assert_eq!((inner.calls(), Arc::strong_count(&alive)), (1, 2), "the test's and the script's");
    assert_eq!(call.await.unwrap().0, 2);
}

#[tokio::test(start_paused = true)]
async fn calls_that_failed_together_do_not_come_back_together() {
    let inner = Inner::<u32, ()>::new(|n, _| async move { down(n) });
    let service = layer(RetryConfig::builder().max_attempts(2)).layer(inner.clone());
    let start = clock();
    let took = join_all((0..50).map(|n| {
        let call = service.clone().oneshot(n);
        async move {
            assert!(call.await.is_err());
            clock().since(start)
        }
    }));
    let took = took.await;
    assert_eq!(inner.calls(), 100);
    // The timer wheel tells milliseconds apart: among 50 draws of 1000 a few may agree.
    let distinct: HashSet<_> = took.iter().map(Duration::as_millis).collect();
    assert!(distinct.len() > 35, "{} of 50 differ", distinct.len());
    assert!(took.iter().any(|took| *took < SEC / 2) && took.iter().any(|took| *took > SEC / 2));
}

#[tokio::test(start_paused = true)]
async fn ten_calls_at_sixty_percent_are_six_retries() {
    let inner = Inner::<u32, ()>::new(|n, _| async move { down(n) });
    let budget = BudgetConfig::builder().ratio(0.6).min_per_second(0).min_concurrency(0);
    let budget = RetryBudget::new(budget.build().unwrap());
    let layer = layer(exact().max_attempts(2)).budget(budget.clone());
    let service = layer.layer(inner.clone());
    let mut refused = 0;
    // All begin before any fails: ten deposits, then ten questions.
    let failures = join_all((0..10).map(|n| {
        let mut service = service.clone();
        assert!(service.poll_ready(&mut std::task::Context::from_waker(&noop_waker())).is_ready());
        service.call(n)
    }));
    for error in failures.await.into_iter().map(Result::unwrap_err) {
        let (attempts, reason) = exhausted(&error);
        refused += u32::from((attempts, reason) == (1, StopReason::Budget));
    }
    assert_eq!((inner.calls(), refused), (16, 4));
    let after = budget.snapshot(clock());
    assert_eq!((after.granted, after.denied, after.in_flight), (6, 4, 0));
}

#[tokio::test(start_paused = true)]
async fn calls_that_cannot_be_sent_twice_count_for_the_budget() {
    let inner = Inner::new(|_, ()| async { Ok(()) });
    let budget = BudgetConfig::builder().ratio(1.0).min_per_second(0);
    let budget = RetryBudget::new(budget.build().unwrap());
    let layer = layer(exact()).replay(Once).budget(budget.clone());
    layer.layer(inner).oneshot(()).await.unwrap();
    assert_eq!(budget.snapshot(clock()).balance, 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_dropped_for_that_reason_and_another_follows() {
    let told = Told::default();
    let seen = told.clone();
    let inner = Inner::new(move |n, ()| {
        let tell = Tell::new(&seen);
        async move {
            let _tell = tell;
            if n == 1 { pending().await } else { Ok(n) }
        }
    });
    let layer = layer(exact().attempt_timeout(3 * SEC));
    assert_eq!(layer.layer(inner.clone()).oneshot(()).await.unwrap(), 2);
    assert_eq!(inner.waits(), [4 * SEC]);
    assert_eq!(*told.lock().unwrap(), [DropReason::AttemptTimeout, DropReason::CallerGone]);
}

#[tokio::test(start_paused = true)]
async fn attempt_timeouts_run_from_the_start_of_each_attempt() {
    let inner = Inner::<(), ()>::new(|_, ()| pending());
    let layer = layer(exact().attempt_timeout(3 * SEC));
    let error = layer.layer(inner.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (3, StopReason::Attempts));
    assert_eq!(find::<AttemptTimedOut>(&*error).unwrap().timeout(), 3 * SEC);
    assert_eq!(inner.waits(), [4 * SEC, 5 * SEC]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_attempt_under_way_and_is_final() {
    let told = Told::default();
    let seen = told.clone();
    let inner = Inner::<(), ()>::new(move |n, ()| {
        let tell = Tell::new(&seen);
        async move {
            let _tell = tell;
            if n == 1 { down(1) } else { pending().await }
        }
    });
    // The attempt timeout is not below what is left, and so without effect.
    let layer = layer(exact().attempt_timeout(4 * SEC));
    let service = within(5 * SEC).layer(layer.layer(inner.clone()));
    let start = clock();
    let error = service.oneshot(()).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>());
    assert_eq!((clock().since(start), inner.calls()), (5 * SEC, 2));
    assert_eq!(*told.lock().unwrap(), [DropReason::CallerGone, DropReason::DeadlineExceeded]);
    assert_eq!(layer.get_budget().snapshot(clock()).in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_does_not_fit_is_not_slept() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let layer = layer(exact());
    let service = within(2 * SEC).layer(layer.layer(inner.clone()));
    let start = clock();
    let error = service.oneshot(()).await.unwrap_err();
    assert_eq!((clock().since(start), inner.calls()), (SEC, 2));
    assert_eq!(exhausted(&error), (2, StopReason::Deadline));
    assert_eq!(layer.get_budget().snapshot(clock()).granted, 1, "no token for the one not sent");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_deadline() {
    let inner = Inner::<(), ()>::new(|_, ()| async { Ok(()) });
    let layer = layer(exact());
    let mut call = CallContext::new().with_deadline(clock());
    let mut service = layer.layer(inner.clone());
    assert!(futures_util::future::poll_fn(|cx| Service::<()>::poll_ready(&mut service, cx)).await.is_ok());
    let error = call.lend(|| service.call(())).await.unwrap_err();
    assert!(error.is::<DeadlineExceeded>());
    assert_eq!(inner.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_wait_is_obeyed_and_the_backoff_goes_on_from_where_it_was() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let classifier = classify::by(|result: Result<&(), &(dyn std::error::Error + 'static)>| {
        let first = result.is_err_and(|error| error.downcast_ref() == Some(&Down(1)));
        Verdict::failure(Origin::Overload, MayRetry::IfIdempotent).with_wait(first.then_some(7 * SEC))
    });
    let retry = |config: RetryConfigBuilder| {
        RetryLayer::new(config.build().unwrap(), classifier).replay(Idempotent).layer(inner.clone())
    };
    assert!(retry(exact()).oneshot(()).await.is_err());
    let waits = inner.waits();
    assert!((7 * SEC..7 * SEC * 3 / 2).contains(&waits[0]), "{waits:?}");
    assert_eq!(waits[1], SEC);
}

#[tokio::test(start_paused = true)]
async fn a_server_wait_that_is_too_long_ends_the_call() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let classifier = classify::by(|_: Result<&(), _>| {
        Verdict::failure(Origin::Overload, MayRetry::NotProcessed).with_wait(Some(8 * SEC))
    });
    let config = exact().max_wait(7 * SEC).build().unwrap();
    let layer = RetryLayer::new(config, classifier).replay(Idempotent);
    let start = clock();
    let error = layer.layer(inner).oneshot(()).await.unwrap_err();
    assert_eq!(clock(), start);
    assert_eq!(exhausted(&error), (1, StopReason::Pushback));
    let exhausted = error.downcast::<RetriesExhausted>().unwrap();
    assert_eq!(exhausted.retry_after(), Some(8 * SEC));
}

#[tokio::test(start_paused = true)]
async fn the_refused_go_to_each_new_endpoint_at_once_and_then_wait() {
    let endpoint = |id| EndpointHandle::new(Endpoint::new(id).unwrap());
    let endpoints = [endpoint("a:1"), endpoint("b:1"), endpoint("b:1")];
    // The fourth attempt finds nothing but the first endpoint again, the fifth picks none at all.
    let picks = [Some(0), Some(1), Some(2), Some(0), None, None];
    let inner = Inner::<(), ()>::new(move |n, ()| {
        if let Some(pick) = picks[n as usize - 1] {
            let again = CallContext::with(|call| {
                let again = call.tried().contains(endpoints[pick].key());
                call.add_tried(endpoints[pick].key());
                again
            });
            assert_eq!(again, Some(n == 4), "what was tried stays known from attempt to attempt");
        }
        async move { Err(Judged::because(Verdict::REFUSED, Down(n)).into()) }
    });
    let layer = layer(exact().max_attempts(6));
    let error = layer.layer(inner.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (6, StopReason::Attempts));
    let zero = Duration::ZERO;
    assert_eq!(inner.waits(), [zero, zero, zero, SEC, 2 * SEC]);
}

#[test]
fn a_full_list_of_endpoints_tried_still_tells_what_is_new() {
    let call = CallContext::new();
    for endpoint in 1..=20 {
        let before = call.tried();
        assert!(!future::is_new(call.tried(), before));
        call.add_tried(endpoint);
        assert!(future::is_new(call.tried(), before));
    }
    let before = call.tried();
    call.add_tried(18);
    assert!(!future::is_new(call.tried(), before));
}

#[tokio::test(start_paused = true)]
async fn another_attempt_does_not_wait_for_readiness_for_ever() {
    let pending_later = |asked: u32| match asked {
        1 => Poll::Ready(Ok(())),
        _ => Poll::Pending,
    };
    let inner = Inner::<(), ()>::with_readiness(pending_later, |n, ()| async move { down(n) });
    let start = clock();
    let error = layer(exact()).layer(inner.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (3, StopReason::Attempts));
    assert_eq!(find::<NotReady>(&*error).unwrap().waited(), 3 * SEC);
    // Wait, attempt, wait, attempt: what is never ready has used up its attempts too.
    assert_eq!(clock().since(start), (1 + 3 + 2 + 3) * SEC);
    assert_eq!(inner.calls(), 1);

    let inner = Inner::<(), ()>::with_readiness(pending_later, |n, ()| async move { down(n) });
    let start = clock();
    let service = within(2 * SEC).layer(layer(exact()).layer(inner));
    assert!(service.oneshot(()).await.unwrap_err().is::<DeadlineExceeded>());
    assert_eq!(clock().since(start), 2 * SEC);

    let inner = Inner::<(), ()>::with_readiness(pending_later, |n, ()| async move { down(n) });
    let start = clock();
    let hurried = layer(exact().max_attempts(2).attempt_timeout(SEC)).layer(inner);
    assert_eq!(find::<NotReady>(&*hurried.oneshot(()).await.unwrap_err()).unwrap().waited(), SEC);
    assert_eq!(clock().since(start), 2 * SEC);
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_is_a_failed_attempt() {
    let broken_once = |asked| Poll::Ready(if asked == 2 { down(0) } else { Ok(()) });
    let inner =
        Inner::with_readiness(broken_once, |n, ()| async move { if n == 1 { down(n) } else { Ok(n) } });
    let answer = layer(exact()).layer(inner.clone()).oneshot(()).await;
    assert_eq!(answer.unwrap(), 2);
    assert_eq!(inner.waits(), [3 * SEC]);
    let broken_later = |asked| Poll::Ready(if asked > 1 { down(0) } else { Ok(()) });
    let inner = Inner::<(), ()>::with_readiness(broken_later, |n, ()| async move { down(n) });
    let error = layer(exact()).layer(inner).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (3, StopReason::Attempts));
    assert_eq!(find::<Down>(&*error), Some(&Down(0)));
}

#[tokio::test(start_paused = true)]
async fn cancelled_in_the_wait_nothing_is_left() {
    let request = Arc::new(());
    let inner = Inner::<Arc<()>, ()>::new(|n, _| async move { down(n) });
    let layer = layer(exact());
    let mut call = Box::pin(layer.layer(inner.clone()).oneshot(request.clone()));
    assert!(poll!(&mut call).is_pending());
    assert_eq!(layer.get_budget().snapshot(clock()).in_flight, 1);
    assert!(Arc::strong_count(&request) > 1 && inner.values() > 1);
    drop(call);
    assert_eq!(layer.get_budget().snapshot(clock()).in_flight, 0);
    assert_eq!((Arc::strong_count(&request), inner.values()), (1, 1));
    advance(60 * SEC).await;
    assert_eq!(inner.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_by_its_owner_tells_the_reason_to_every_attempt() {
    for attempt in [1, 2] {
        let told = Told::default();
        let seen = told.clone();
        let inner = Inner::<(), ()>::new(move |n, ()| {
            let tell = Tell::new(&seen);
            async move {
                if n == attempt {
                    pending::<()>().await;
                    drop(tell);
                    Ok(())
                } else {
                    down(n)
                }
            }
        });
        let mut service = layer(exact()).layer(inner.clone());
        assert!(
            futures_util::future::poll_fn(|cx| Service::<()>::poll_ready(&mut service, cx)).await.is_ok()
        );
        let mut owner = CallContext::new();
        let mut call = owner.lend(|| {
            CallContext::attempt_started(clock);
            Box::pin(service.call(()))
        });
        let run = futures_util::future::poll_fn(|cx| owner.lend(|| call.as_mut().poll(cx)));
        assert!(tokio::time::timeout(2 * SEC, run).await.is_err());
        owner.drop_for(DropReason::HedgeLost, call);
        assert_eq!(told.lock().unwrap().last(), Some(&DropReason::HedgeLost), "attempt {attempt}");
    }
}

#[test]
fn what_is_ready_needs_no_timer_and_no_runtime() {
    let config = || exact().attempt_timeout(SEC);
    let ready = Inner::new(|n, ()| async move { Ok(n) });
    let never = Inner::<(), ()>::new(|_, ()| pending());
    fn once<Res: 'static>(config: RetryConfigBuilder, inner: Inner<(), Res>) -> Poll<Result<Res, BoxError>> {
        let mut service = within(SEC).layer(layer(config).layer(inner));
        let waker = noop_waker();
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(service.poll_ready(&mut cx).is_ready());
        std::pin::pin!(service.call(())).poll(&mut cx)
    }
    assert!(matches!(once(config(), ready), Poll::Ready(Ok(1))));
    // A retry at once needs none either.
    let at_once = Inner::new(|n, ()| async move { if n == 1 { down(n) } else { Ok(n) } });
    assert!(matches!(once(config().base_delay(Duration::ZERO), at_once), Poll::Ready(Ok(2))));
    let armed = catch_unwind(AssertUnwindSafe(|| once(config(), never)));
    assert!(armed.is_err(), "without a runtime a timer would have shown");
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_serves_the_next_call() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let layer = layer(exact());
    let service = layer.layer(inner.clone());
    let mut call = std::pin::pin!(service.clone().oneshot(()));
    assert!(poll!(&mut call).is_pending());
    layer.live().reload(RetryConfig::builder().max_attempts(1).build().unwrap());
    assert!(call.await.is_err());
    assert_eq!(inner.calls(), 3, "a call keeps what it began with");
    assert!(service.oneshot(()).await.is_err());
    assert_eq!(inner.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn inner_layers_read_the_clock_once_and_the_end_is_told_outward() {
    let inner = Inner::new(|n, ()| {
        let started = CallContext::attempt_started(|| unreachable!("read already"));
        async move {
            sleep(SEC).await;
            CallContext::attempt_ended(started, clock);
            if n == 1 { down(n) } else { Ok(()) }
        }
    });
    let mut service = layer(exact()).layer(inner);
    assert!(futures_util::future::poll_fn(|cx| Service::<()>::poll_ready(&mut service, cx)).await.is_ok());
    let mut owner = CallContext::new();
    let (started, mut call) =
        owner.lend(|| (CallContext::attempt_started(clock), Box::pin(service.call(()))));
    assert!(futures_util::future::poll_fn(|cx| owner.lend(|| call.as_mut().poll(cx))).await.is_ok());
    assert_eq!(owner.ended(), Some(started + 3 * SEC));
}

#[tokio::test(start_paused = true)]
async fn requests_need_not_be_clone_nor_futures_sync_nor_anything_static() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    struct NotClone;
    let here = Mutex::new(0);
    let service = tower::service_fn(|_: NotClone| {
        *here.lock().unwrap() += 1;
        let not_sync = std::cell::Cell::new(1);
        async move { Ok::<_, BoxError>(not_sync.into_inner()) }
    });
    let layer = RetryLayer::new(RetryConfig::default(), ByResult).replay(Once);
    assert_eq!(send(layer.layer(service).oneshot(NotClone)).await.unwrap(), 1);
    assert_eq!(here.into_inner().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_retries_of_one_call_do_not_compete_with_each_other() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let budget = BudgetConfig::builder().ratio(0.0).min_per_second(0).min_concurrency(1);
    let layer = layer(exact()).budget(RetryBudget::new(budget.build().unwrap()));
    let error = layer.layer(inner).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (3, StopReason::Attempts));
}

#[tokio::test(start_paused = true)]
async fn an_inner_future_that_uses_up_every_turn_times_out_all_the_same() {
    let inner = Inner::<(), ()>::new(|_, ()| async {
        loop {
            tokio::task::consume_budget().await;
        }
    });
    let layer = layer(exact().max_attempts(1).attempt_timeout(SEC));
    let mut call = std::pin::pin!(layer.layer(inner).oneshot(()));
    assert!(poll!(&mut call).is_pending());
    advance(SEC).await;
    let Poll::Ready(Err(error)) = poll!(&mut call) else { panic!("still pending") };
    assert!(error.is::<AttemptTimedOut>());
}

fn throttled(max: u32) -> RetryBudget {
    RetryBudget::new(BudgetConfig::builder().max_tokens(max).token_ratio(0.5).build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn while_too_much_fails_nothing_is_sent_again() {
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let layer = layer(exact()).budget(throttled(4));
    let error = layer.layer(inner.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (2, StopReason::Throttled), "the second failure left half of the tokens");
    let left = layer.get_budget().snapshot(clock());
    assert_eq!((left.milli_tokens, left.throttled, left.denied, left.granted), (Some(2000), 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn the_throttle_hears_of_calls_that_cannot_be_sent_twice() {
    let answers = |n| if n <= 2 { down(n) } else { Ok(()) };
    let inner = Inner::new(move |n, ()| async move { answers(n) });
    let layer = layer(exact()).replay(Once).budget(throttled(10));
    let service = layer.layer(inner);
    for tokens in [9000, 8000, 8500] {
        let _ = service.clone().oneshot(()).await;
        assert_eq!(layer.get_budget().snapshot(clock()).milli_tokens, Some(tokens));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_takes_no_token_and_what_is_forbidden_does() {
    for (retry, tokens) in [
        (MayRetry::NotProcessed, 10_000),
        (MayRetry::Never, 10_000),
        (MayRetry::Forbidden, 9000),
        (MayRetry::IfIdempotent, 9000),
    ] {
        let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
        let judge = classify::by(move |_: Result<&(), _>| Verdict::failure(Origin::Remote, retry));
        let config = exact().max_attempts(1).build().unwrap();
        let layer = RetryLayer::new(config, judge).replay(Idempotent).budget(throttled(10));
        assert!(layer.layer(inner).oneshot(()).await.is_err());
        assert_eq!(layer.get_budget().snapshot(clock()).milli_tokens, Some(tokens), "{retry:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_tells_of_every_attempt_why_it_failed_when_and_where() {
    let endpoints = ["a:1", "b:1"].map(|id| EndpointHandle::new(Endpoint::new(id).unwrap()));
    let known = endpoints.clone();
    let inner = Inner::<(), ()>::new(move |n, ()| {
        // The second attempt reaches no balancer.
        if n != 2 {
            CallContext::with(|call| call.add_tried(known[n as usize / 2].key()));
        }
        async move { if n == 1 { Err(Judged::because(Verdict::REFUSED, Down(n)).into()) } else { down(n) } }
    });
    let layer = layer(exact());
    let error = layer.layer(inner).oneshot(()).await.unwrap_err();
    let exhausted = error.downcast_ref::<RetriesExhausted>().unwrap();
    let told: Vec<_> = exhausted
        .history()
        .iter()
        .map(|attempt| (attempt.reason().as_str(), attempt.after(), attempt.endpoint()))
        .collect();
    let zero = Duration::ZERO;
    assert_eq!(
        told,
        [
            ("refused", zero, Some(endpoints[0].id())),
            ("local", zero, None),
            ("local", SEC, Some(endpoints[1].id()))
        ]
    );
    assert_eq!(exhausted.budget().balance, layer.get_budget().snapshot(clock()).balance);
}

#[tokio::test(start_paused = true)]
async fn there_may_be_fewer_attempts_for_one_reason() {
    let overloaded =
        classify::by(|_: Result<&(), _>| Verdict::failure(Origin::Overload, MayRetry::IfIdempotent));
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let config = exact().max_attempts(5).max_overloads(2).build().unwrap();
    let layer = RetryLayer::new(config, overloaded).replay(Idempotent);
    let error = layer.layer(inner.clone()).oneshot(()).await.unwrap_err();
    assert_eq!(exhausted(&error), (2, StopReason::AttemptsForReason));
}

#[tokio::test(start_paused = true)]
async fn retries_can_be_a_share_of_the_calls_under_way() {
    let budget = BudgetConfig::builder().active_ratio(0.2).min_concurrency(1).build().unwrap();
    let layer = layer(exact()).budget(RetryBudget::new(budget));
    let inner = Inner::<(), ()>::new(|n, ()| async move { down(n) });
    let service = layer.layer(inner.clone());
    let mut calls: Vec<_> = (0..20).map(|_| Box::pin(service.clone().oneshot(()))).collect();
    // Those that come first find few beside them.
    let waiting = futures_util::future::poll_fn(|cx| {
        Poll::Ready(
            calls.iter_mut().filter_map(|call| call.as_mut().poll(cx).is_pending().then_some(())).count(),
        )
    });
    let waiting = waiting.await;
    assert_eq!(waiting as u32, layer.get_budget().snapshot(clock()).in_flight);
    assert!((1..=4).contains(&waiting), "{waiting}");
    drop(calls);
    assert_eq!(layer.get_budget().snapshot(clock()).balance, 1, "all of them are gone");
}

#[tokio::test(start_paused = true)]
async fn with_its_answer_a_call_keeps_nothing_that_waits_for_another_attempt() {
    let never_again = |asked| if asked == 1 { Poll::Ready(Ok(())) } else { Poll::Pending };
    let inner = Inner::<(), ()>::with_readiness(never_again, |n, ()| async move { down(n) });
    let mut service = layer(exact().max_attempts(2)).layer(inner.clone());
    let values = inner.values();
    let mut call = Box::pin(service.ready().await.unwrap().call(()));
    let error = (&mut call).await.unwrap_err();
    assert!(find::<NotReady>(&*error).is_some(), "{error}");
    assert_eq!(inner.values(), values, "what waits in a queue would keep its place");
}
