//! One circuit, shared by all threads: the state machine, a window, and a word that lets closed calls by without a lock.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tower_mesh_core::backoff::Chance;
use tower_mesh_core::classify::{Outcome, Verdict};
use tower_mesh_core::window::{CountWindow, Sample, TimeWindow, Window, WindowCounts};
use tower_mesh_core::{EndpointHandle, EndpointId, Listeners, Tick};

use crate::config::{BreakerConfig, WindowKind};
use crate::error::CircuitOpen;
use crate::metering;
use crate::outlier::Member;
use crate::policy::machine::{Admission, Counted, Machine, State, Transition, TripReason, rate_reached};
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A handle to one circuit; clones are the same circuit.
///
/// The layer uses it for every call, an operator to look at it and to give orders. It can also be used by itself, around anything:
///
/// ```
/// use std::time::{Duration, Instant};
/// use tower_mesh_breaker::{BreakerConfig, Circuit, State};
/// use tower_mesh_core::Tick;
/// use tower_mesh_core::classify::{Origin, Outcome};
/// let config = BreakerConfig::builder().consecutive_failures(2).build()?;
/// let now = Tick::of(Instant::now());
/// let circuit = Circuit::new(config, now);
/// for _ in 0..2 {
///     let permit = circuit.acquire(now)?;
///     permit.finish(Outcome::Failure(Origin::Remote), Duration::ZERO, now);
/// }
/// assert_eq!(circuit.state(), State::Open);
/// assert!(circuit.acquire(now).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Circuit(Arc<Inner>);

/// The first fields, in this order, are all that a call through a closed circuit touches: with thousands of endpoints each further line of memory
/// is a cache miss.
#[repr(C)]
pub(crate) struct Inner {
    /// Generation and phase of the machine, published whenever it moves: see [`word`].
    word: AtomicU64,
    consecutive: AtomicU32,
    /// What few circuits have, so that the others need not look: [`RESHAPED`], [`IN_A_SET`].
    flags: AtomicU8,
    /// From the configuration, [`u64::MAX`] if no call is slow.
    slow_after_ns: AtomicU64,
    window: Window,
    /// The endpoint's place in a set that ejects outliers, if it is in one.
    member: Option<Arc<Member>>,
    /// Read without a lock, and only where a call may trip it.
    config: ArcSwap<BreakerConfig>,
    machine: Mutex<Machine>,
    reshaped: ArcSwapOption<Window>,
    endpoint: Option<EndpointHandle>,
    refused: AtomicU64,
    late: AtomicU64,
    /// Made by the first who waits for a change.
    changed: OnceLock<Arc<Notify>>,
    /// Made for the first who listens to this very circuit.
    listeners: OnceLock<Box<Listeners<CircuitEvent>>>,
    family: Arc<Family>,
}

/// Another window stands in for the first: the configuration has asked for another shape since.
const RESHAPED: u8 = 1;
/// There is a member.
const IN_A_SET: u8 = 2;

/// What the circuits of one layer, or of one registry, share.
#[derive(Debug, Default)]
pub(crate) struct Family {
    /// What reports call them.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) listeners: Arc<Listeners<CircuitEvent>>,
}

/// What the word says to a call: the low bits are the phase, the rest the generation.
mod word {
    use super::State;

    pub(super) const COUNTED: u64 = 0;
    pub(super) const UNCOUNTED: u64 = 1;
    pub(super) const ASK: u64 = 2;
    const BITS: u32 = 2;

    pub(super) fn of(state: State, generation: u64) -> u64 {
        let phase = match state {
            State::Closed | State::MetricsOnly => COUNTED,
            State::Disabled => UNCOUNTED,
            State::Open | State::HalfOpen | State::ForcedOpen => ASK,
        };
        (generation << BITS) | phase
    }

    pub(super) fn phase(word: u64) -> u64 {
        word & ((1 << BITS) - 1)
    }

    pub(super) fn generation(word: u64) -> u64 {
        word >> BITS
    }
}

impl Circuit {
    /// A closed circuit.
    pub fn new(config: BreakerConfig, now: Tick) -> Self {
        Self::build(config.into(), now, Arc::default(), None, None).announced()
    }

    /// A closed circuit that shows in the availability of `endpoint`, so that a balancer routes around it.
    pub fn watching(config: BreakerConfig, now: Tick, endpoint: EndpointHandle) -> Self {
        Self::build(config.into(), now, Arc::default(), Some(endpoint), None).announced()
    }

    /// The same, of which metrics know from here on: not under a lock, for they are somebody else's code.
    pub(crate) fn announced(self) -> Self {
        metering::born(&self.0.family);
        self
    }

    pub(crate) fn build(
        config: Arc<BreakerConfig>,
        now: Tick,
        family: Arc<Family>,
        endpoint: Option<EndpointHandle>,
        member: Option<Arc<Member>>,
    ) -> Self {
        Self(Arc::new(Inner {
            word: AtomicU64::new(word::of(State::Closed, 0)),
            consecutive: AtomicU32::new(0),
            flags: AtomicU8::new(if member.is_some() { IN_A_SET } else { 0 }),
            slow_after_ns: AtomicU64::new(slow_after_ns(&config)),
            window: new_window(&config, now),
            member,
            machine: Mutex::new(Machine::new(config.clone(), now)),
            config: ArcSwap::new(config),
            reshaped: ArcSwapOption::empty(),
            endpoint,
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
            changed: OnceLock::new(),
            listeners: OnceLock::new(),
            family,
        }))
    }

    /// Reads what a call through a closed circuit reads and writes.
    #[inline]
    pub(crate) fn read_ahead(&self) {
        std::hint::black_box(self.0.word.load(Ordering::Relaxed));
        self.0.window.read_ahead();
    }

    /// Asks to make a call at `now`. The permit must be finished; dropped, it counts for nothing and gives a trial call back.
    ///
    /// This is also what moves an open circuit whose wait is over to half-open.
    ///
    /// # Errors
    /// When the circuit is open, or half-open with all trial calls out.
    pub fn acquire(&self, now: Tick) -> Result<Permit, CircuitOpen> {
        Ok(Permit { admission: Some(self.admit(|| now)?), circuit: self.clone() })
    }

    /// As [`acquire`](Self::acquire), without the handle in the permit. The clock is read only if the circuit is not closed.
    #[inline]
    pub(crate) fn admit(&self, clock: impl FnOnce() -> Tick) -> Result<Admission, CircuitOpen> {
        let word = self.0.word.load(Ordering::Acquire);
        let generation = word::generation(word);
        match word::phase(word) {
            word::COUNTED => Ok(Admission::new(generation, Counted::Window)),
            word::UNCOUNTED => Ok(Admission::new(generation, Counted::Not)),
            _ => self.ask(clock()),
        }
    }

    #[cold]
    fn ask(&self, now: Tick) -> Result<Admission, CircuitOpen> {
        let due = self.0.endpoint.as_ref().is_some_and(|endpoint| endpoint.recheck_due(now));
        let entry = self.update(now, |machine| {
            let entry = machine.enter(now, due, chance());
            (entry.transition, entry)
        });
        entry.admitted.map_err(|retry_after| {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            metering::refused(&self.0.family);
            CircuitOpen::new(retry_after)
        })
    }

    /// Whether what `admission` was given by still holds, so that a call readied earlier may be made.
    pub(crate) fn still_holds(&self, admission: Admission) -> bool {
        word::generation(self.0.word.load(Ordering::Acquire)) == admission.generation()
    }

    /// Takes in how an admitted call ended.
    #[inline]
    pub(crate) fn release(&self, admission: Admission, verdict: Verdict, elapsed_ns: u64, now: Tick) {
        let outcome = verdict.outcome;
        let inner = &*self.0;
        let flags = inner.flags.load(Ordering::Acquire);
        if flags & IN_A_SET != 0
            && let Some(member) = &inner.member
        {
            member.record(outcome, elapsed_ns, now);
        }
        let slow = elapsed_ns > inner.slow_after_ns.load(Ordering::Relaxed);
        let (failed, in_row) = match outcome {
            Outcome::Failure(origin) => {
                let config = inner.config.load();
                (config.failure_origins().contains(origin), config.consecutive_origins().contains(origin))
            }
            _ => (false, false),
        };
        // None: it says nothing to the rates.
        let sample = match outcome {
            Outcome::Success | Outcome::Undecided => Some(Sample { failed: false, slow }),
            Outcome::Failure(_) if failed => Some(Sample { failed, slow }),
            Outcome::Failure(_) | Outcome::Ignored | Outcome::Refused => None,
        };
        if admission.counted() != Counted::Window {
            return self.release_trial(admission, sample, verdict.wait, now);
        }
        if !self.still_holds(admission) {
            inner.late.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let may_be_bad = sample.is_some_and(|sample| {
            inner.with_window(|window| {
                window.record(now, sample);
                // Without a failed or slow call in the window there is no rate to reach. With one, a success may be what fills the minimum.
                window.may_hold_bad(now)
            })
        });
        let mut in_a_row = 0;
        match outcome {
            Outcome::Failure(_) if in_row => {
                in_a_row = inner.consecutive.fetch_add(1, Ordering::Relaxed) + 1;
            }
            Outcome::Success | Outcome::Undecided if inner.consecutive.load(Ordering::Relaxed) != 0 => {
                inner.consecutive.store(0, Ordering::Relaxed);
            }
            _ => {}
        }
        if may_be_bad || in_a_row > 0 {
            self.evaluate(admission, in_a_row, verdict.wait, now);
        }
    }

    fn evaluate(&self, admission: Admission, in_a_row: u32, asked: Option<Duration>, now: Tick) {
        let config = &**self.0.config.load();
        let counts = self.0.with_window(|window| window.counts(now));
        let reason = if config.consecutive_failures() > 0 && in_a_row >= config.consecutive_failures() {
            Some(TripReason::ConsecutiveFailures)
        } else {
            rate_reached(config, counts, u64::from(config.min_calls()))
        };
        if let Some(reason) = reason {
            self.update(now, |machine| {
                (machine.trip(admission.generation(), reason, counts, asked, now, chance()), ())
            });
        }
    }

    #[cold]
    fn release_trial(
        &self,
        admission: Admission,
        sample: Option<Sample>,
        asked: Option<Duration>,
        now: Tick,
    ) {
        if admission.counted() == Counted::Trial {
            if !self.still_holds(admission) {
                self.0.late.fetch_add(1, Ordering::Relaxed);
            }
            self.update(now, |machine| (machine.exit(admission, sample, asked, now, chance()), ()));
        }
    }

    /// Opens it, as a rule would: trial calls follow once the wait is over.
    pub fn trip(&self, now: Tick) {
        self.order(State::Open, now);
    }

    /// Lets trial calls in now, if it is open; whether it was.
    pub fn half_open(&self, now: Tick) -> bool {
        self.order(State::HalfOpen, now)
    }

    /// Closes it, with an empty window. One that is closed already stays as it is, window included.
    pub fn close(&self, now: Tick) {
        self.order(State::Closed, now);
    }

    /// Opens it until somebody says otherwise.
    pub fn force_open(&self, now: Tick) {
        self.order(State::ForcedOpen, now);
    }

    /// Lets every call by, uncounted, until somebody says otherwise.
    pub fn disable(&self, now: Tick) {
        self.order(State::Disabled, now);
    }

    /// Lets every call by, counted, until somebody says otherwise: what would have happened can be read, nothing does.
    pub fn metrics_only(&self, now: Tick) {
        self.order(State::MetricsOnly, now);
    }

    fn order(&self, state: State, now: Tick) -> bool {
        self.update(now, |machine| {
            let transition = machine.order(state, now, chance());
            (transition, transition.is_some())
        })
    }

    /// What it does with calls. Reading changes nothing: an open circuit whose wait is over still says open until a call asks.
    pub fn state(&self) -> State {
        self.machine().state()
    }

    /// State and counts at `now`. Reading changes nothing.
    pub fn snapshot(&self, now: Tick) -> CircuitSnapshot {
        let machine = self.machine();
        let state = machine.state();
        let counts = match state {
            State::Closed | State::MetricsOnly => self.0.with_window(|window| window.counts(now)),
            _ => machine.counts(),
        };
        let probe_at = self.0.endpoint.as_ref().and_then(EndpointHandle::recheck_at);
        CircuitSnapshot {
            state,
            generation: machine.generation(),
            counts,
            min_calls: match state {
                State::Closed | State::MetricsOnly => u64::from(self.config().min_calls()),
                // It decides when all trial calls are back, and until then there is no rate.
                State::HalfOpen => u64::from(self.config().half_open_permits()),
                _ => 1,
            },
            consecutive_failures: self.0.consecutive.load(Ordering::Relaxed),
            next_trial: machine.open_until().map(|until| probe_at.map_or(until, |hinted| until.min(hinted))),
            refused: self.0.refused.load(Ordering::Relaxed),
            late: self.0.late.load(Ordering::Relaxed),
        }
    }

    /// Waits until its state has changed to `state`; at once if it is that already. Any number may wait; dropping one affects no other.
    pub async fn reached(&self, state: State) {
        loop {
            let changed = self.changed().notified();
            tokio::pin!(changed);
            // From here on a change is heard, so looking cannot miss one.
            changed.as_mut().enable();
            if self.state() == state {
                return;
            }
            changed.await;
        }
    }

    /// Whether the end of a call says anything to anybody, whatever the state that admitted it.
    pub(crate) fn is_in_a_set(&self) -> bool {
        self.0.member.is_some()
    }

    /// Notified at each change from now on.
    pub(crate) fn changed(&self) -> &Arc<Notify> {
        self.0.changed.get().unwrap_or_else(|| {
            // Under the lock: a change either finds it, or came before and is seen by who looks next.
            let _machine = self.machine();
            self.0.changed.get_or_init(Arc::default)
        })
    }

    /// The endpoint whose circuit this is, if it is one endpoint's.
    pub fn endpoint(&self) -> Option<&EndpointId> {
        self.0.endpoint.as_ref().map(EndpointHandle::id)
    }

    /// The record of that endpoint, which tells it from an earlier or later one of the same id.
    pub fn handle(&self) -> Option<&EndpointHandle> {
        self.0.endpoint.as_ref()
    }

    /// What reports call it, if its layer or registry has a name.
    pub fn name(&self) -> Option<&str> {
        self.0.family.name.as_deref()
    }

    /// The knobs.
    pub fn config(&self) -> BreakerConfig {
        **self.0.config.load()
    }

    /// Goes by `config` from now on, and never has to be told twice: calls under way are judged by it when they end.
    ///
    /// The state stays, and so does what the window holds unless the window itself is another: then the new one begins empty. An open circuit stays open
    /// for as long as it was to. A half-open one that has heard of as many calls as it now wants decides.
    pub fn reload(&self, config: BreakerConfig, now: Tick) {
        self.reload_shared(&Arc::new(config), now);
    }

    pub(crate) fn reload_shared(&self, config: &Arc<BreakerConfig>, now: Tick) {
        let inner = &*self.0;
        self.update(now, |machine| {
            let old = inner.config.swap(config.clone());
            inner.slow_after_ns.store(slow_after_ns(config), Ordering::Relaxed);
            if old.window() != config.window() {
                inner.reshaped.store(Some(Arc::new(new_window(config, now))));
                inner.flags.fetch_or(RESHAPED, Ordering::Release);
            }
            (machine.reconfigure(config.clone(), now, chance()), ())
        });
    }

    /// Tells `listener` of every transition of this circuit from now on, after it is in force. It runs on the thread that caused it, mostly a caller's, under
    /// no lock, and should be quick; if it panics, nobody else is harmed. Two transitions that follow one another closely on two threads may be told in the
    /// other order: their generations say which came first.
    pub fn on_transition(&self, listener: impl Fn(&CircuitEvent) + Send + Sync + 'static) {
        self.0.listeners.get_or_init(Box::default).add(listener);
    }

    pub(crate) fn family(&self) -> &Arc<Family> {
        &self.0.family
    }

    pub(crate) fn downgrade(&self) -> std::sync::Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    pub(crate) fn upgrade(inner: &std::sync::Weak<Inner>) -> Option<Self> {
        inner.upgrade().map(Self)
    }

    /// Lets the machine move, publishes where it stands, then tells the world, in this order. The endpoint's availability changes under the lock:
    /// two transitions that follow one another must not be shown in the other order.
    fn update<R>(&self, now: Tick, step: impl FnOnce(&mut Machine) -> (Option<Transition>, R)) -> R {
        let inner = &*self.0;
        let (transition, result) = {
            let mut machine = self.machine();
            let (transition, result) = step(&mut machine);
            if transition.is_some() {
                let state = machine.state();
                if matches!(state, State::Closed | State::HalfOpen | State::MetricsOnly) {
                    inner.with_window(Window::clear);
                    inner.consecutive.store(0, Ordering::Relaxed);
                }
                inner.word.store(word::of(state, machine.generation()), Ordering::Release);
                if let Some(endpoint) = &inner.endpoint {
                    match state {
                        State::Open => {
                            endpoint.open_circuit(now, machine.open_until(), machine.believes_probes());
                        }
                        State::ForcedOpen => endpoint.open_circuit(now, None, false),
                        State::HalfOpen => endpoint.half_open_circuit(),
                        State::Closed | State::Disabled | State::MetricsOnly => endpoint.close_circuit(),
                    }
                }
            }
            (transition, result)
        };
        if let Some(transition) = transition {
            if let Some(changed) = inner.changed.get() {
                changed.notify_waiters();
            }
            self.tell(transition, now);
        }
        result
    }

    fn tell(&self, transition: Transition, now: Tick) {
        let (inner, endpoint) = (&*self.0, self.endpoint().map(tracing::field::display));
        let Transition { from, to, reason, generation, counts, open_for } = transition;
        metering::moved(&inner.family, &transition);
        let (total, failed, slow) = (counts.total, counts.failed, counts.slow);
        if to == State::Open {
            tracing::warn!(
                endpoint,
                ?from,
                ?to,
                ?reason,
                generation,
                total,
                failed,
                slow,
                ?open_for,
                "circuit opened"
            );
        } else {
            tracing::info!(endpoint, ?from, ?to, ?reason, generation, total, failed, slow, "circuit changed");
        }
        let own = inner.listeners.get();
        if own.is_some() || inner.family.listeners.any() {
            let event = CircuitEvent { circuit: self.clone(), transition, at: now };
            let panicked = own.map_or(0, |own| own.tell(&event)) + inner.family.listeners.tell(&event);
            if panicked > 0 {
                tracing::error!(panicked, "listeners for transitions panicked");
            }
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The window in use.
    #[inline]
    fn with_window<R>(&self, f: impl FnOnce(&Window) -> R) -> R {
        let is_reshaped = self.flags.load(Ordering::Acquire) & RESHAPED != 0;
        if is_reshaped { self.with_reshaped(f) } else { f(&self.window) }
    }

    #[cold]
    fn with_reshaped<R>(&self, f: impl FnOnce(&Window) -> R) -> R {
        f(self.reshaped.load().as_deref().unwrap_or(&self.window))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        metering::gone(&self.family, self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).state());
    }
}

fn new_window(config: &BreakerConfig, now: Tick) -> Window {
    match config.window() {
        WindowKind::Calls(calls) => Window::Count(CountWindow::new(calls)),
        WindowKind::Time(window) => {
            let buckets = window.as_secs().clamp(10, 60) as u32;
            Window::Time(TimeWindow::new(window, buckets, now))
        }
    }
}

fn slow_after_ns(config: &BreakerConfig) -> u64 {
    config.slow_call_duration().map_or(u64::MAX, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX))
}

fn chance() -> Chance {
    Chance::Raw(fastrand::u64(..))
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit")
            .field("endpoint", &self.endpoint())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Leave to make one call. Dropped unfinished it counts for nothing, and a trial call may be made in its stead.
#[derive(Debug)]
#[must_use = "a call that is made must be told how it ended"]
pub struct Permit {
    circuit: Circuit,
    admission: Option<Admission>,
}

impl Permit {
    /// Tells how the call ended, how long it took, and when.
    pub fn finish(self, outcome: Outcome, elapsed: Duration, now: Tick) {
        self.finish_with(Verdict { outcome, ..Verdict::IGNORED }, elapsed, now);
    }

    /// As [`finish`](Self::finish), by a verdict, in which the server may have asked for a wait ([`OpenDelay::AsAsked`](crate::OpenDelay::AsAsked)).
    pub fn finish_with(mut self, verdict: Verdict, elapsed: Duration, now: Tick) {
        if let Some(admission) = self.admission.take() {
            let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            self.circuit.release(admission, verdict, elapsed_ns, now);
        }
    }

    pub(crate) fn of(circuit: Circuit, admission: Admission) -> Self {
        Self { circuit, admission: Some(admission) }
    }

    /// Leaves it to somebody else to tell how the call ended.
    pub(crate) fn into_admission(mut self) -> Admission {
        self.admission.take().expect("a permit has its admission until it is finished")
    }

    /// Whether the state that gave it is still there.
    pub(crate) fn still_holds(&self) -> bool {
        self.admission.is_some_and(|admission| self.circuit.still_holds(admission))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match self.admission.take() {
            // Only a trial call has something to give back.
            Some(admission) if admission.counted() == Counted::Trial => {
                let now = Tick::of(tokio::time::Instant::now().into_std());
                self.circuit.release(admission, Verdict::IGNORED, 0, now);
            }
            _ => {}
        }
    }
}

/// A transition of a circuit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CircuitEvent {
    /// Whose.
    pub circuit: Circuit,
    /// What changed. It is in force, and others may have followed.
    pub transition: Transition,
    /// When.
    pub at: Tick,
}

/// A circuit at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitSnapshot {
    /// What it does with calls.
    pub state: State,
    /// How often it has changed its state.
    pub generation: u64,
    /// What its window holds; of a half-open circuit its trial calls; of an open one what made it open.
    pub counts: WindowCounts,
    /// Failures in a row up to now.
    pub consecutive_failures: u32,
    /// When a trial call is wanted, if it is open and a time is set.
    pub next_trial: Option<Tick>,
    /// Calls refused so far.
    pub refused: u64,
    /// Calls whose end came after the state that had admitted them; they count for nothing.
    pub late: u64,
    min_calls: u64,
}

impl CircuitSnapshot {
    /// The share of failed calls in percent; none while there are too few calls to tell.
    pub fn failure_rate(&self) -> Option<f64> {
        self.rate(self.counts.failed)
    }

    /// The share of slow calls in percent; none while there are too few calls to tell.
    pub fn slow_call_rate(&self) -> Option<f64> {
        self.rate(self.counts.slow)
    }

    fn rate(&self, part: u64) -> Option<f64> {
        let enough = self.counts.total >= self.min_calls.max(1);
        enough.then(|| part as f64 * 100.0 / self.counts.total as f64)
    }
}

/// Every interleaving of two threads on the word, the row of failures and the leases. The window within has models of its own.
#[cfg(all(loom, test))]
mod loom_tests {
    use loom::thread;
    use tower_mesh_core::classify::Origin;

    use super::*;

    const FAILURE: Outcome = Outcome::Failure(Origin::Remote);

    fn circuit(permits: u32) -> (Circuit, Tick) {
        let config = BreakerConfig::builder().consecutive_failures(2).half_open_permits(permits).build();
        let now = crate::service::clock();
        (Circuit::new(config.unwrap(), now), now)
    }

    fn both(circuit: &Circuit, run: impl Fn(Circuit) -> u32 + Copy + Send + 'static) -> u32 {
        let other = circuit.clone();
        let thread = thread::spawn(move || run(other));
        run(circuit.clone()) + thread.join().unwrap()
    }

    #[test]
    fn loom_failures_in_a_row_trip_it_once_however_they_meet() {
        loom::model(|| {
            let (circuit, now) = circuit(1);
            both(&circuit, move |circuit| {
                if let Ok(permit) = circuit.acquire(now) {
                    permit.finish(FAILURE, Duration::ZERO, now);
                }
                0
            });
            let snapshot = circuit.snapshot(now);
            assert_eq!((snapshot.state, snapshot.generation, snapshot.late), (State::Open, 1, 0));
        });
    }

    #[test]
    fn loom_one_lease_goes_to_one_and_comes_back() {
        loom::model(|| {
            let (circuit, now) = circuit(1);
            circuit.trip(now);
            let due = now + Duration::from_secs(5);
            let admitted = both(&circuit, move |circuit| match circuit.acquire(due) {
                Ok(permit) => {
                    // It shows nothing and goes back, perhaps before the other asks.
                    permit.finish(Outcome::Ignored, Duration::ZERO, due);
                    1
                }
                Err(_) => 0,
            });
            assert!(admitted >= 1);
            assert_eq!(circuit.snapshot(due).generation, 2, "it became half-open once");
            circuit.acquire(due).unwrap().finish(Outcome::Success, Duration::ZERO, due);
            assert_eq!(circuit.state(), State::Closed);
        });
    }

    #[test]
    fn loom_a_trial_that_decides_meets_one_who_asks() {
        loom::model(|| {
            let (circuit, now) = circuit(1);
            circuit.trip(now);
            let due = now + Duration::from_secs(5);
            let trial = circuit.acquire(due).unwrap();
            let other = circuit.clone();
            let thread = thread::spawn(move || other.acquire(due).is_ok());
            trial.finish(Outcome::Success, Duration::ZERO, due);
            let admitted = thread.join().unwrap();
            assert_eq!(circuit.state(), State::Closed);
            assert_eq!(circuit.snapshot(due).refused, u64::from(!admitted));
        });
    }

    #[test]
    fn loom_what_a_state_admitted_counts_for_it_or_is_late_never_both() {
        loom::model(|| {
            let (circuit, now) = circuit(1);
            let permit = circuit.acquire(now).unwrap();
            let other = circuit.clone();
            let thread = thread::spawn(move || {
                other.force_open(now);
                other.close(now);
            });
            permit.finish(FAILURE, Duration::ZERO, now);
            thread.join().unwrap();
            let snapshot = circuit.snapshot(now);
            assert_eq!((snapshot.state, snapshot.generation), (State::Closed, 2));
            // It may be counted by the state that follows, if that began between its look and its count; in that case it is not late.
            assert!(snapshot.late + snapshot.counts.total <= 1);
            assert!(snapshot.consecutive_failures <= 1);
        });
    }
}
