//! T8, T9, T12: trying again.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tower::retry::backoff::{Backoff as _, ExponentialBackoffMaker, MakeBackoff};
use tower::retry::budget::{Budget, TpsBudget};
use tower::util::rng::HasherRng;
use tower::{Layer, Service, ServiceExt};
use tower_mesh_core::BoxError;
use tower_mesh_core::classify::{self, ByResult, Origin, Retry as MayRetry, Verdict};
use tower_mesh_core::replay::Idempotent;
use tower_mesh_retry::{BudgetConfig, RetryBudget, RetryConfig, RetryLayer};
use tower_mesh_test::{Down, Inner, Stepped};
use tower_mesh_tests::{Query, ms, now, seconds};

use crate::{Seen, assert_caught, assert_told_apart, ensure};

const DRAWS: usize = 500;

/// The first waits of many calls, made with one maker, lie all over the range that jitter has.
fn t8_jitter_spreads(base: Duration, waits: &[Duration]) -> Seen {
    ensure(waits.len() == DRAWS, || format!("{} waits", waits.len()))?;
    let distinct: HashSet<_> = waits.iter().map(Duration::as_millis).collect();
    ensure(distinct.len() > DRAWS / 2, || {
        format!("{} different waits of {DRAWS} for {base:?}", distinct.len())
    })?;
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    let tenth = (*most - *least) / 10;
    for n in 0..10 {
        let (from, to) = (*least + tenth * n, *least + tenth * (n + 1));
        let within = waits.iter().filter(|wait| (from..to).contains(wait)).count();
        // 50 are expected; five standard deviations are 34.
        ensure((15..=85).contains(&within), || format!("{within} of {DRAWS} in tenth {n} for {base:?}"))?;
    }
    Ok(())
}

/// The first waits of our retry layer, as its calls lived them.
async fn our_waits(base: Duration) -> Vec<Duration> {
    let inner = Inner::<Query, u64>::new(|_, _| async { Err(Down("inner".into()).into()) });
    let config = RetryConfig::builder().max_attempts(2).base_delay(base).build().unwrap();
    let service = RetryLayer::new(config, ByResult).replay(Idempotent).layer(inner);
    let mut waits = Vec::new();
    for n in 0..DRAWS {
        let start = now();
        assert!(service.clone().oneshot(Query(n as u32)).await.is_err());
        waits.push(now().since(start));
    }
    waits
}

#[tokio::test(start_paused = true)]
async fn t8_jitter_is_drawn_afresh_and_not_cut_to_seconds() {
    let towers = |base| {
        let mut maker = ExponentialBackoffMaker::new(base, seconds(60), 0.99, HasherRng::default()).unwrap();
        // tower tells how long a wait is only by the timer it arms.
        let mut wait = move || maker.make_backoff().next_backoff().deadline() - tokio::time::Instant::now();
        (0..DRAWS).map(|_| wait()).collect::<Vec<_>>()
    };
    for base in [ms(900), ms(1000), ms(1500), ms(2000)] {
        let maker = fastrand::Rng::with_seed(7);
        let cloned = (0..DRAWS).map(|_| base.mul_f64(maker.clone().f64())).collect::<Vec<_>>();
        let cut = (0..DRAWS)
            .map(|_| base + seconds((base.as_secs_f64() * fastrand::f64()) as u64))
            .collect::<Vec<_>>();
        let ours = our_waits(base).await;
        assert_told_apart(
            &t8_jitter_spreads(base, &ours),
            &t8_jitter_spreads(base, &cloned),
            "different waits",
        );
        assert_caught(&t8_jitter_spreads(base, &cut), "different waits");
        assert_caught(&t8_jitter_spreads(base, &towers(base)), "different waits");
    }
}

/// Ten calls pay for six retries when they may be 60 % of the traffic.
fn t9_sixty_percent(deposit: impl Fn(), withdraw: impl Fn() -> bool) -> Seen {
    (0..10).for_each(|_| deposit());
    let retries = (0..10).filter(|_| withdraw()).count();
    ensure((5..=6).contains(&retries), || format!("{retries} retries for ten calls"))
}

#[test]
fn t9_a_ratio_is_not_truncated() {
    let config = BudgetConfig::builder().ratio(0.6).min_per_second(0).min_concurrency(0).build().unwrap();
    let (ours, towers) = (RetryBudget::new(config), TpsBudget::new(seconds(10), 0, 0.6));
    let tokens = std::cell::Cell::new(0_i64);
    let truncated = || {
        let cost = (1.0 / 0.6) as i64;
        let enough = tokens.get() >= cost;
        tokens.set(tokens.get() - if enough { cost } else { 0 });
        enough
    };
    assert_told_apart(
        &t9_sixty_percent(|| ours.deposit(now()), || ours.withdraw(now()).is_some()),
        &t9_sixty_percent(|| tokens.set(tokens.get() + 1), truncated),
        "10 retries",
    );
    assert_caught(&t9_sixty_percent(|| towers.deposit(), || towers.withdraw()), "10 retries");
}

/// A response that holds something: its first is rejected.
type Holding = Arc<()>;

/// While a retry waits, what it rejected is gone.
async fn t12_rejected_is_dropped<S>(retry: impl FnOnce(Inner<Query, (u64, Holding)>) -> S) -> Seen
where
    S: Service<Query, Response = (u64, Holding), Error = BoxError>,
{
    let rejected = Arc::new(std::sync::Mutex::new(Weak::new()));
    let seen = rejected.clone();
    let inner = Inner::new(move |call, _: Query| {
        let holding = Arc::new(());
        if call == 1 {
            *seen.lock().unwrap() = Arc::downgrade(&holding);
        }
        async move { Ok((call, holding)) }
    });
    let mut call = Stepped::new(retry(inner.clone()).oneshot(Query(0)));
    ensure(call.poll().is_pending() && inner.calls() == 1, || "not waiting to try again".into())?;
    let alive = rejected.lock().unwrap().strong_count();
    ensure(alive == 0, || "the rejected response lives on during the wait".into())?;
    tokio::time::advance(seconds(60)).await;
    ensure(call.poll().is_ready(), || "did not try again".into())
}

#[tokio::test(start_paused = true)]
async fn t12_the_rejected_response_does_not_live_through_the_wait() {
    let rejects_the_first = classify::by(|result: Result<&(u64, Holding), _>| match result {
        Ok((1, _)) => Verdict::failure(Origin::Remote, MayRetry::IfIdempotent),
        _ => Verdict::SUCCESS,
    });
    let ours = RetryLayer::new(RetryConfig::default(), rejects_the_first).replay(Idempotent);
    let wrong = |inner: Inner<Query, (u64, Holding)>| {
        tower::service_fn(move |query| {
            let inner = inner.clone();
            async move {
                let mut result = inner.clone().oneshot(query).await;
                if matches!(result, Ok((1, _))) {
                    tokio::time::sleep(seconds(1)).await;
                    result = inner.oneshot(query).await;
                }
                result
            }
        })
    };
    assert_told_apart(
        &t12_rejected_is_dropped(|inner| ours.layer(inner)).await,
        &t12_rejected_is_dropped(wrong).await,
        "lives on",
    );
}
