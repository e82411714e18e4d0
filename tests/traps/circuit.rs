//! T1, T2, T3, T10, T13, T14: circuits.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tower::{Layer, Service, ServiceExt};
use tower_mesh_breaker::{BreakerConfig, BreakerConfigBuilder, Circuit, Permit, State, WindowKind};
use tower_mesh_core::classify::{Origin, Outcome};
use tower_mesh_core::{BoxError, Tick};
use tower_mesh_test::{Inner, Stepped};
use tower_mesh_tests::{Query, breaker, now, seconds};

use crate::{Seen, assert_told_apart, ensure};

/// Something that lets calls in and hears how they end.
trait Gate {
    type Leave;
    fn enter(&self, at: Tick) -> Option<Self::Leave>;
    fn end(&self, leave: Self::Leave, well: bool, at: Tick);
    fn trip(&self, at: Tick);
}

impl Gate for Circuit {
    type Leave = Permit;

    fn enter(&self, at: Tick) -> Option<Permit> {
        self.acquire(at).ok()
    }

    fn end(&self, leave: Permit, well: bool, at: Tick) {
        let outcome = if well { Outcome::Success } else { Outcome::Failure(Origin::Remote) };
        leave.finish(outcome, Duration::ZERO, at);
    }

    fn trip(&self, at: Tick) {
        Circuit::trip(self, at);
    }
}

fn ours(config: BreakerConfigBuilder) -> Circuit {
    Circuit::new(config.consecutive_failures(0).build().unwrap(), now())
}

/// A breaker as the peers wrote it: half-open after five seconds, a rate of one half, and one mistake.
struct Naive {
    mistake: Mistake,
    permits: u32,
    state: Mutex<Naively>,
}

#[derive(PartialEq)]
enum Mistake {
    /// The counts of the closed state never slide.
    Accumulates,
    /// Half-open decides by what a window of one second holds.
    WindowedTrials,
    /// An outcome counts in whatever state it arrives in.
    NoGeneration,
}

#[derive(Default)]
struct Naively {
    total: u32,
    failed: u32,
    opened: Option<Tick>,
    half_open: bool,
    admitted: u32,
    trials: Vec<Tick>,
}

impl Naive {
    fn new(mistake: Mistake, permits: u32) -> Self {
        Self { mistake, permits, state: Mutex::default() }
    }
}

impl Gate for Naive {
    type Leave = ();

    fn enter(&self, at: Tick) -> Option<()> {
        let state = &mut *self.state.lock().unwrap();
        if state.opened.is_some_and(|opened| at.since(opened) >= seconds(5)) {
            (state.opened, state.half_open, state.admitted) = (None, true, 0);
        }
        if state.half_open && state.admitted < self.permits {
            state.admitted += 1;
            return Some(());
        }
        (state.opened.is_none() && !state.half_open).then_some(())
    }

    fn end(&self, (): (), well: bool, at: Tick) {
        let state = &mut *self.state.lock().unwrap();
        if state.half_open && self.mistake == Mistake::WindowedTrials {
            state.trials.push(at);
            state.trials.retain(|&trial| at.since(trial) < seconds(1));
            state.half_open = state.trials.len() < self.permits as usize;
        } else if state.half_open {
            state.half_open = false;
        } else {
            state.total += 1;
            state.failed += u32::from(!well);
            if state.total >= 10 && state.failed * 2 >= state.total {
                state.opened = Some(at);
            }
        }
    }

    fn trip(&self, at: Tick) {
        self.state.lock().unwrap().opened = Some(at);
    }
}

/// A window of ten calls has forgotten ten thousand good ones after ten bad ones.
fn t1_window_slides(gate: &impl Gate) -> Seen {
    let at = now();
    for _ in 0..10_000 {
        let leave = gate.enter(at).ok_or("refused while all is well")?;
        gate.end(leave, true, at);
    }
    let mut failures = 0;
    while let Some(leave) = gate.enter(at) {
        gate.end(leave, false, at);
        failures += 1;
        ensure(failures <= 10, || "eleven failures in a window of ten, and still closed".into())?;
    }
    Ok(())
}

#[test]
fn t1_a_window_of_ten_calls_slides() {
    let window = BreakerConfig::builder().window(WindowKind::Calls(10)).min_calls(10);
    assert_told_apart(
        &t1_window_slides(&ours(window)),
        &t1_window_slides(&Naive::new(Mistake::Accumulates, 1)),
        "still closed",
    );
}

/// Trial calls that take longer than the window still bring a decision.
fn t2_slow_trials_decide(gate: &impl Gate) -> Seen {
    let mut at = now();
    gate.trip(at);
    at = at + seconds(5);
    let trials: Vec<_> = (0..3).map_while(|_| gate.enter(at)).collect();
    ensure(trials.len() == 3, || format!("{} of three trial calls", trials.len()))?;
    for trial in trials {
        at = at + seconds(2);
        gate.end(trial, true, at);
    }
    admits_within_a_minute(gate, at)
}

/// Sooner or later it lets calls in again; all of them end well.
fn admits_within_a_minute(gate: &impl Gate, from: Tick) -> Seen {
    let mut admitted = 0;
    for second in 0..60 {
        let at = from + seconds(second);
        if let Some(leave) = gate.enter(at) {
            gate.end(leave, true, at);
            admitted += 1;
        }
    }
    ensure(admitted >= 20, || format!("{admitted} of 60 calls let in: half-open for good"))
}

#[test]
fn t2_half_open_decides_whatever_its_trial_calls_take() {
    let window = BreakerConfig::builder().window(WindowKind::Time(seconds(1))).half_open_permits(3);
    assert_told_apart(
        &t2_slow_trials_decide(&ours(window)),
        &t2_slow_trials_decide(&Naive::new(Mistake::WindowedTrials, 3)),
        "half-open for good",
    );
}

/// No permit at all cannot be asked for, or half-open ends all the same.
fn t3_zero_permits<G: Gate>(make: impl FnOnce(u32) -> Option<G>) -> Seen {
    let Some(gate) = make(0) else {
        return Ok(());
    };
    let at = now();
    gate.trip(at);
    admits_within_a_minute(&gate, at + seconds(5))
}

#[test]
fn t3_half_open_without_a_permit_cannot_be() {
    let make = |permits| {
        let config = BreakerConfig::builder().half_open_permits(permits).build();
        config.ok().map(|config| Circuit::new(config, now()))
    };
    assert_told_apart(
        &t3_zero_permits(make),
        &t3_zero_permits(|permits| Some(Naive::new(Mistake::NoGeneration, permits))),
        "half-open for good",
    );
}

/// What began before the trip says nothing in half-open: the trial call is still out.
fn t10_late_success(gate: &impl Gate) -> Seen {
    let mut at = now();
    let early = gate.enter(at).ok_or("refused while all is well")?;
    gate.trip(at);
    at = at + seconds(5);
    let _trial = gate.enter(at).ok_or("no trial call")?;
    gate.end(early, true, at);
    let let_in = (0..20).filter(|_| gate.enter(at).is_some()).count();
    ensure(let_in == 0, || format!("{let_in} calls let in by the success of one from before the trip"))
}

#[test]
fn t10_a_late_success_does_not_close_half_open() {
    let one = BreakerConfig::builder().half_open_permits(1);
    assert_told_apart(
        &t10_late_success(&ours(one)),
        &t10_late_success(&Naive::new(Mistake::NoGeneration, 1)),
        "20 calls let in",
    );
}

/// Calls that a caller gives up on after a second are failures of a backend that hangs.
async fn t13_hung_backend<S>(service: S, inner: &Inner<Query, u64>) -> Seen
where
    S: Service<Query, Response = u64, Error = BoxError> + Clone,
{
    for n in 0..50 {
        let _ = tokio::time::timeout(seconds(1), service.clone().oneshot(Query(n))).await;
    }
    ensure(inner.calls() < 50, || "50 calls hung, and none was refused".into())
}

/// Counts what comes back, and nothing else.
#[derive(Clone)]
struct Forgetful<S> {
    inner: S,
    failures: Arc<Mutex<u32>>,
}

impl<S> Service<Query> for Forgetful<S>
where
    S: Service<Query, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        if *self.failures.lock().unwrap() >= 5 {
            return std::task::Poll::Ready(Err("open".into()));
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, query: Query) -> Self::Future {
        let (call, failures) = (self.inner.call(query), self.failures.clone());
        Box::pin(async move {
            let result = call.await;
            *failures.lock().unwrap() += u32::from(result.is_err());
            result
        })
    }
}

#[tokio::test(start_paused = true)]
async fn t13_calls_that_are_given_up_on_are_counted() {
    let hanging = || Inner::<Query, u64>::new(|_, _| pending());
    let (inner, beneath) = (hanging(), hanging());
    let wrong = Forgetful { inner: beneath.clone(), failures: Arc::default() };
    assert_told_apart(
        &t13_hung_backend(breaker().layer(inner.clone()), &inner).await,
        &t13_hung_backend(wrong, &beneath).await,
        "none was refused",
    );
}

/// Who waits for it to close is woken by the order to close, and not when some wait is over.
fn t14_order_wakes(wait: impl Future<Output = ()>, close: impl FnOnce()) -> Seen {
    let mut waiting = Stepped::new(wait);
    ensure(waiting.poll().is_pending(), || "not waiting".into())?;
    close();
    ensure(waiting.wakes() > 0, || "not woken by the order".into())?;
    ensure(waiting.poll().is_ready(), || "woken, and still waiting".into())
}

#[tokio::test(start_paused = true)]
async fn t14_an_order_wakes_who_waits() {
    let circuit = breaker().circuit().clone();
    circuit.trip(now());
    let ours = t14_order_wakes(circuit.reached(State::Closed), || circuit.close(now()));
    let wrong = t14_order_wakes(tokio::time::sleep(seconds(3)), || {});
    assert_told_apart(&ours, &wrong, "not woken by the order");
}
