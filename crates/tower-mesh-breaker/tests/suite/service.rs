//! The breaker as a service, polled by hand under a paused clock.

use std::time::Duration;

use tokio_test::task;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_breaker::{Breaker, BreakerConfig, BreakerLayer, Circuit, CircuitOpen, State};
use tower_mesh_core::classify::{self, ByResult, Guard, Origin, Outcome, Retry, Verdict, judge};
use tower_mesh_core::{BoxError, CallContext, Classify, DropReason, EndpointHandle, Reason, error};
use tower_service::Service;

use crate::inner::{Ask, Inner, Readiness, now};

const MS: Duration = Duration::from_millis(1);

fn eager() -> BreakerConfig {
    BreakerConfig::builder().consecutive_failures(2).half_open_permits(1).build().unwrap()
}

fn alone(config: BreakerConfig, inner: &Inner) -> (Breaker<Inner, ByResult>, Circuit) {
    let layer = BreakerLayer::new(config, ByResult);
    (layer.layer(inner.clone()), layer.circuit().clone())
}

fn watching(config: BreakerConfig, inner: &Inner) -> (Breaker<Inner, ByResult>, Circuit, EndpointHandle) {
    let endpoint = EndpointHandle::new("a:1".parse().unwrap());
    let layer = BreakerLayer::new(config, ByResult).watching(&endpoint);
    (layer.layer(inner.clone()), layer.circuit().clone(), endpoint)
}

async fn call<C: Classify<()>>(breaker: &mut Breaker<Inner, C>, ask: Ask) -> Result<(), BoxError> {
    breaker.ready().await?.call(ask).await.map(drop)
}

fn is_refusal(error: &BoxError) -> bool {
    let verdict = judge::<(), _>(&ByResult, Err(&**error));
    error::find::<CircuitOpen>(&**error).is_some()
        && (verdict.outcome, verdict.retry) == (Outcome::Refused, Retry::NotProcessed)
}

fn is_open(endpoint: &EndpointHandle) -> bool {
    endpoint.availability().contains(Reason::CircuitOpen)
}

#[tokio::test(start_paused = true)]
async fn alone_and_open_it_is_ready_without_asking_and_refuses_the_call() {
    let inner = Inner::default();
    let (mut breaker, circuit) = alone(eager(), &inner);
    for _ in 0..2 {
        assert!(!is_refusal(&call(&mut breaker, Ask::Fail).await.unwrap_err()));
    }
    assert_eq!(circuit.state(), State::Open);
    inner.set(Readiness::Pending);
    let asked = inner.asked();
    for refused in 1..=3 {
        assert!(is_refusal(&call(&mut breaker, Ask::Succeed).await.unwrap_err()));
        assert_eq!(circuit.snapshot(now()).refused, refused);
    }
    assert_eq!((inner.asked(), inner.called()), (asked, 2));
}

#[tokio::test(start_paused = true)]
async fn what_was_readied_while_open_never_reaches_the_inner_service() {
    let inner = Inner::default();
    let (mut breaker, circuit) = alone(eager(), &inner);
    circuit.trip(now());
    breaker.ready().await.unwrap();
    circuit.close(now());
    // The inner service would complain: it was never readied.
    assert!(is_refusal(&breaker.call(Ask::Succeed).await.unwrap_err()));
    assert_eq!(inner.called(), 0);
    call(&mut breaker, Ask::Succeed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn watching_and_open_it_refuses_before_the_request_is_spent_and_shows_it() {
    let inner = Inner::default();
    let (mut breaker, _, endpoint) = watching(eager(), &inner);
    for _ in 0..2 {
        call(&mut breaker, Ask::Fail).await.unwrap_err();
    }
    assert!(is_open(&endpoint) && !endpoint.is_pickable(now()));
    let asked = inner.asked();
    let refusal = breaker.ready().await.unwrap_err();
    assert!(is_refusal(&refusal));
    let wait = error::find::<CircuitOpen>(&*refusal).unwrap().retry_after();
    assert_eq!(wait, Some(Duration::from_secs(5)));
    assert_eq!(inner.asked(), asked);

    tokio::time::advance(wait.unwrap()).await;
    assert!(endpoint.is_pickable(now()), "a trial call is wanted");
    call(&mut breaker, Ask::Succeed).await.unwrap();
    assert_eq!(endpoint.availability(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_passes_brings_the_trial_forward() {
    let inner = Inner::default();
    let (mut breaker, circuit, endpoint) = watching(eager(), &inner);
    circuit.trip(now());
    tokio::time::advance(MS).await;
    assert!(breaker.ready().await.is_err());
    assert!(endpoint.hint_recovery(now()));
    assert_eq!(circuit.state(), State::Open, "until a call asks");
    call(&mut breaker, Ask::Succeed).await.unwrap();
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "must be ready before it is called")]
async fn leave_for_one_call_is_not_leave_for_a_clone() {
    let (mut breaker, _) = alone(eager(), &Inner::default());
    breaker.ready().await.unwrap();
    drop(breaker.clone().call(Ask::Succeed));
}

#[tokio::test(start_paused = true)]
async fn a_trial_is_leased_to_who_asked_for_it_and_goes_back_unused() {
    let inner = Inner::default();
    let (mut breaker, circuit, _) = watching(eager(), &inner);
    circuit.trip(now());
    tokio::time::advance(Duration::from_secs(5)).await;
    breaker.ready().await.unwrap();
    breaker.ready().await.unwrap();
    assert_eq!(circuit.state(), State::HalfOpen);
    let mut clone = breaker.clone();
    assert!(is_refusal(&clone.ready().await.unwrap_err()), "the only one is out");
    drop(clone.clone());
    assert!(clone.ready().await.is_err(), "a clone has nothing to give back");
    drop(breaker);
    call(&mut clone, Ask::Succeed).await.unwrap();
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn trial_calls_that_show_nothing_are_made_again_and_those_that_fail_open_it_for_longer() {
    let (mut breaker, circuit, endpoint) = watching(eager(), &Inner::default());
    circuit.trip(now());
    tokio::time::advance(Duration::from_secs(5)).await;
    for _ in 0..10 {
        drop(breaker.ready().await.unwrap().call(Ask::Hang));
        assert_eq!(circuit.state(), State::HalfOpen);
    }
    assert!(!is_open(&endpoint), "a trial is wanted");
    call(&mut breaker, Ask::Fail).await.unwrap_err();
    assert_eq!(circuit.state(), State::Open);
    let wait = circuit.snapshot(now()).next_trial.unwrap().since(now());
    assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_that_breaks_in_readiness_counts_as_one_that_fails() {
    let inner = Inner::default();
    inner.set(Readiness::Broken);
    let (mut breaker, circuit, endpoint) = watching(eager(), &inner);
    for _ in 0..2 {
        assert_eq!(breaker.ready().await.unwrap_err().to_string(), "broken for good");
    }
    assert!(is_open(&endpoint));
    assert!(is_refusal(&breaker.ready().await.unwrap_err()));

    // A trial call that gets no further has failed too: its lease is not lost.
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(breaker.ready().await.unwrap_err().to_string(), "broken for good");
    assert_eq!((circuit.state(), circuit.snapshot(now()).counts.failed), (State::Open, 1));
}

#[tokio::test(start_paused = true)]
async fn callers_that_wait_for_readiness_hear_of_an_order() {
    let inner = Inner::default();
    inner.set(Readiness::Pending);
    let (breaker, circuit) = alone(eager(), &inner);
    let mut waiters: Vec<_> = (0..3).map(|_| task::spawn(breaker.clone())).collect();
    for waiter in &mut waiters {
        assert_pending!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)));
        assert!(!waiter.is_woken(), "it does not wake itself");
    }
    drop(waiters.pop());
    circuit.force_open(now());
    for mut waiter in waiters {
        assert!(waiter.is_woken());
        assert_ready_ok!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)));
        assert!(is_refusal(&waiter.call(Ask::Succeed).await.unwrap_err()));
    }
    assert_eq!(inner.called(), 0);

    let (breaker, circuit, _) = watching(eager(), &inner);
    let mut waiter = task::spawn(breaker);
    assert_pending!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)));
    circuit.force_open(now());
    assert!(waiter.is_woken());
    assert!(is_refusal(&assert_ready_err!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)))));
}

#[tokio::test(start_paused = true)]
async fn waiting_asks_again_only_when_there_is_news() {
    let inner = Inner::default();
    inner.set(Readiness::Pending);
    let (breaker, circuit) = alone(eager(), &inner);
    let mut waiter = task::spawn(breaker);
    assert_pending!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)));
    assert!(inner.asked() <= 2, "once more after it began to listen, at most");
    let asked = inner.asked();
    assert_pending!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)));
    assert_eq!(inner.asked(), asked + 1);
    // An order that lets calls by leaves the wait what it is.
    circuit.metrics_only(now());
    assert!(waiter.is_woken());
    assert_pending!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)));
    inner.set(Readiness::Ready);
    assert_ready_ok!(waiter.enter(|cx, mut breaker| breaker.poll_ready(cx)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_counts_by_why_and_after_how_long_it_was_dropped() {
    use DropReason::{AttemptTimeout, CallerGone, DeadlineExceeded, HedgeLost};
    let ms = Duration::from_millis;
    for (reason, after, counts) in [
        (None, ms(0), false),
        (None, ms(500), false),
        (None, ms(501), true),
        (Some(CallerGone), ms(501), true),
        (Some(AttemptTimeout), ms(0), true),
        (Some(DeadlineExceeded), ms(0), true),
        (Some(HedgeLost), ms(60_000), false),
    ] {
        let (mut breaker, circuit) = alone(BreakerConfig::default(), &Inner::default());
        breaker.ready().await.unwrap();
        let mut context = CallContext::new();
        let mut future = task::spawn(context.lend(|| breaker.call(Ask::Hang)));
        assert_pending!(future.poll());
        tokio::time::advance(after).await;
        match reason {
            Some(reason) => context.drop_for(reason, future),
            None => drop(future),
        }
        let found = circuit.snapshot(now()).counts;
        let expected = u64::from(counts);
        assert_eq!((found.total, found.failed), (expected, expected), "{reason:?} after {after:?}");
    }
}

/// A response whose guard hears of its end when it is dropped.
#[derive(Clone)]
struct Streaming;

impl Classify<()> for Streaming {
    type Response<G: Guard> = G;

    fn head(&self, _: Result<&(), &(dyn std::error::Error + 'static)>) -> Verdict {
        Verdict::UNDECIDED
    }

    fn attach<G: Guard>(&self, (): (), _: Verdict, guard: G) -> G {
        guard
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_reader_closes_is_no_failure_however_long_it_was() {
    let day = Duration::from_secs(86_400);
    for days in [1, 49, 50, 400] {
        let layer = BreakerLayer::new(BreakerConfig::default(), Streaming);
        let mut stream = layer.layer(Inner::default()).oneshot(Ask::Succeed).await.unwrap();
        tokio::time::advance(days * day).await;
        stream.progress();
        tokio::time::advance(499 * MS).await;
        drop(stream);
        assert_eq!(layer.circuit().snapshot(now()).counts.failed, 0, "after {days} days");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_until_its_callers_leave_trips_it() {
    let (breaker, circuit) = alone(BreakerConfig::default(), &Inner::default());
    for _ in 0..5 {
        assert_eq!(circuit.state(), State::Closed);
        let call = breaker.clone().oneshot(Ask::Hang);
        assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());
    }
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_after_the_state_that_admitted_them_move_nothing() {
    let (mut breaker, circuit, _) = watching(eager(), &Inner::default());
    let late = breaker.ready().await.unwrap().call(Ask::Take(7 * Duration::from_secs(1)));
    let late_too = breaker.ready().await.unwrap().call(Ask::Take(Duration::from_secs(1)));
    for _ in 0..2 {
        call(&mut breaker, Ask::Fail).await.unwrap_err();
    }
    late_too.await.unwrap();
    assert_eq!(circuit.state(), State::Open, "a late success closes nothing");
    tokio::time::advance(Duration::from_secs(5)).await;
    breaker.ready().await.unwrap();
    late.await.unwrap();
    let snapshot = circuit.snapshot(now());
    assert_eq!((snapshot.state, snapshot.late, snapshot.counts.total), (State::HalfOpen, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn slow_successes_open_it_and_a_success_may_be_what_fills_the_minimum() {
    let config = BreakerConfig::builder().slow_call_duration(100 * MS).min_calls(4).build().unwrap();
    let (mut breaker, circuit) = alone(config, &Inner::default());
    for taken in [100, 101, 101] {
        call(&mut breaker, Ask::Take(MS * taken)).await.unwrap();
    }
    assert_eq!(circuit.snapshot(now()).slow_call_rate(), None);
    call(&mut breaker, Ask::Succeed).await.unwrap();
    assert_eq!(circuit.state(), State::Closed, "half of them is not all");
    assert_eq!(circuit.snapshot(now()).slow_call_rate(), Some(50.0));

    let config = BreakerConfig::builder().min_calls(4).consecutive_failures(0).build().unwrap();
    let (mut breaker, circuit) = alone(config, &Inner::default());
    for ask in [Ask::Fail, Ask::Succeed, Ask::Fail] {
        let _ = call(&mut breaker, ask).await;
    }
    assert_eq!(circuit.state(), State::Closed, "too few to tell");
    call(&mut breaker, Ask::Succeed).await.unwrap();
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn overload_counts_for_the_share_and_not_as_one_in_a_row() {
    let overloaded = classify::by(|result: Result<&(), &(dyn std::error::Error + 'static)>| match result {
        Ok(()) => Verdict::SUCCESS,
        Err(_) => Verdict::failure(Origin::Overload, Retry::IfIdempotent),
    });
    let config = BreakerConfig::builder().consecutive_failures(2).min_calls(6).build().unwrap();
    let layer = BreakerLayer::new(config, overloaded);
    let mut breaker = layer.layer(Inner::default());
    for _ in 0..5 {
        call(&mut breaker, Ask::Fail).await.unwrap_err();
    }
    assert_eq!(layer.circuit().state(), State::Closed);
    call(&mut breaker, Ask::Fail).await.unwrap_err();
    assert_eq!(layer.circuit().state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn orders_hold_until_the_next() {
    let (mut breaker, circuit, endpoint) = watching(eager(), &Inner::default());
    circuit.metrics_only(now());
    for _ in 0..20 {
        call(&mut breaker, Ask::Fail).await.unwrap_err();
    }
    assert_eq!(circuit.snapshot(now()).failure_rate(), Some(100.0));
    assert_eq!(circuit.state(), State::MetricsOnly);
    circuit.disable(now());
    for _ in 0..20 {
        call(&mut breaker, Ask::Fail).await.unwrap_err();
    }
    assert_eq!(circuit.state(), State::Disabled);
    assert!(!is_open(&endpoint));
    circuit.force_open(now());
    tokio::time::advance(Duration::from_secs(100_000)).await;
    let refusal = breaker.ready().await.unwrap_err();
    assert_eq!(error::find::<CircuitOpen>(&*refusal).unwrap().retry_after(), None);
    assert!(is_open(&endpoint) && !endpoint.is_pickable(now()));
    circuit.close(now());
    assert_eq!(circuit.snapshot(now()).counts, Default::default());
    call(&mut breaker, Ask::Succeed).await.unwrap();
    assert!(!is_open(&endpoint));
}

#[tokio::test(start_paused = true)]
async fn any_number_may_wait_for_a_state_and_looking_does_not_change_it() {
    let (_, circuit) = alone(eager(), &Inner::default());
    let mut waiting: Vec<_> = (0..3).map(|_| task::spawn(circuit.reached(State::Open))).collect();
    for waiter in &mut waiting {
        assert_pending!(waiter.poll());
    }
    drop(waiting.pop());
    circuit.trip(now());
    for waiter in &mut waiting {
        assert!(waiter.is_woken());
        assert!(waiter.poll().is_ready());
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    let before = circuit.snapshot(now());
    assert_eq!((circuit.state(), circuit.snapshot(now())), (State::Open, before));
    assert_eq!(before.generation, 1);
}
