//! The one shared record of a live endpoint.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::availability::{Availability, Reason};
use crate::classify::Outcome;
use crate::endpoint::{Endpoint, EndpointId};
use crate::ewma::{self, Decay, PeakEwma};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::statics::{AtomicU32 as StaticU32, AtomicU64 as StaticU64};
use crate::tick::Tick;

/// What is known of one live endpoint, shared by every layer and every caller; cheap to clone.
///
/// It holds the attributes that discovery announced, the [`Availability`] word in which each layer sets and clears its own
/// [`Reason`], the count of calls by outcome, and a peak-sensitive latency estimate. Health and breaker speak to the balancer through
/// it without knowing the balancer, so foreign layers may stand in between.
///
/// Nothing here waits: reads and writes on the call path are single atomic operations on one cache line.
#[derive(Clone)]
pub struct EndpointHandle(Arc<Record>);

struct Record {
    hot: Hot,
    trial: Trial,
    /// Calls that were in flight when the latency was forgotten. Read only while there is none.
    from_before: AtomicU32,
    key: u32,
    id: EndpointId,
    cold: Mutex<Cold>,
}

impl Drop for Record {
    fn drop(&mut self) {
        Names::lock().remove(&self.key);
    }
}

/// What the endpoints of this process are called, by their keys: for reports, which know only the key of where a call went.
struct Names;

impl Names {
    fn lock() -> MutexGuard<'static, HashMap<u32, EndpointId>> {
        static NAMES: LazyLock<Mutex<HashMap<u32, EndpointId>>> = LazyLock::new(Mutex::default);
        NAMES.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What no call reads. Small, so that the whole record keeps to two cache lines.
struct Cold {
    endpoint: Arc<Endpoint>,
    attached: Option<Box<Attached>>,
}

/// What few records have.
#[derive(Default)]
struct Attached {
    /// Never taken from, so nothing of it is dropped before the record is, and then under no lock.
    kept: Vec<Arc<dyn Any + Send + Sync>>,
    /// Of an ejected endpoint: probes that began after this end it. None: no probe does.
    recovers_after: Option<Tick>,
    /// Whom to tell that probes have found it down.
    down_listeners: Vec<Weak<DownListener>>,
}

/// Who is told that an endpoint is down by its probes.
pub type DownListener = dyn Fn() + Send + Sync;

/// All that a pick reads and a call writes, in one cache line.
#[repr(align(64))]
#[derive(Default)]
struct Hot {
    /// Low half: the availability bits, and [`PENALIZED`]. High half: the latency epoch, which tells late samples from current ones.
    word: AtomicU32,
    weight: AtomicU32,
    started: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    ignored: AtomicU64,
    abandoned: AtomicU64,
    latency: PeakEwma,
}

const EPOCH: u32 = 1 << 16;
/// Failed calls weigh in the latency.
const PENALIZED: u32 = 1 << 15;
const BITS: u32 = PENALIZED - 1;
/// The bits that a pick goes by.
const PICKING: u32 = Availability::BLOCKING.bits() as u32 | Reason::Degraded as u32;

/// On a line of its own: read by many threads, seldom written.
#[repr(align(128))]
struct Changes(StaticU64);

static CHANGES: Changes = Changes(StaticU64::new(0));

/// When a blocked endpoint may be tried again, in nanoseconds as [`Tick`]s count. Read only while it is blocked.
struct Trial {
    recheck_at: AtomicU64,
    /// Probes that began before this do not shorten the wait. `u64::MAX`: no probe does.
    hints_after: AtomicU64,
}

impl EndpointHandle {
    /// A record for `endpoint`, fully available and without history.
    pub fn new(endpoint: Endpoint) -> Self {
        static NEXT_KEY: StaticU32 = StaticU32::new(1);
        let hot = Hot { weight: AtomicU32::new(endpoint.weight().get()), ..Hot::default() };
        let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
        Names::lock().insert(key, endpoint.id().clone());
        Self(Arc::new(Record {
            hot,
            trial: Trial { recheck_at: AtomicU64::new(u64::MAX), hints_after: AtomicU64::new(u64::MAX) },
            from_before: AtomicU32::new(0),
            key,
            id: endpoint.id().clone(),
            cold: Mutex::new(Cold { endpoint: Arc::new(endpoint), attached: None }),
        }))
    }

    /// Its identity.
    pub fn id(&self) -> &EndpointId {
        &self.0.id
    }

    /// A number that no other live record of this process has (it would take four thousand million endpoints): what
    /// [`CallContext`](crate::CallContext) remembers of a pick.
    pub fn key(&self) -> u32 {
        self.0.key
    }

    /// The id of the live endpoint that has this [key](Self::key), if there is one. For reports: it takes a short lock.
    pub fn id_of(key: u32) -> Option<EndpointId> {
        Names::lock().get(&key).cloned()
    }

    /// Its attributes as last announced.
    pub fn endpoint(&self) -> Arc<Endpoint> {
        self.cold().endpoint.clone()
    }

    /// Takes new attributes for the same identity; everything learned stays. The id of `endpoint` is not looked at.
    pub fn update(&self, endpoint: Endpoint) {
        self.0.hot.weight.store(endpoint.weight().get(), Ordering::Relaxed);
        let endpoint = Arc::new(endpoint);
        self.cold().endpoint = endpoint;
    }

    /// Ties `state` to the record: it is kept as long as that is, and dropped with it, by whoever drops the last handle, under no lock of
    /// the record's.
    ///
    /// For what a layer keeps of an endpoint and calls need not carry. It must not hold a handle of this endpoint, or neither would ever
    /// go: a [`WeakEndpoint`] is for that. What is attached twice is kept twice.
    pub fn attach(&self, state: Arc<impl Any + Send + Sync>) {
        self.cold().attached.get_or_insert_default().kept.push(state);
    }

    /// Has `listener` told each time that active probes have found the endpoint down; for what keeps idle connections to it. Kept as long as the caller keeps
    /// it. It runs on the prober's task and should be quick.
    pub fn on_down(&self, listener: &Arc<DownListener>) {
        let mut cold = self.cold();
        let listeners = &mut cold.attached.get_or_insert_default().down_listeners;
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(listener));
    }

    /// Tells them, under no lock. For whoever probes, after [`Reason::ProbeDown`] is set.
    pub fn tell_down(&self) {
        let listeners = self.cold().attached.as_ref().map(|attached| attached.down_listeners.clone());
        for listener in listeners.iter().flatten() {
            if let Some(listener) = listener.upgrade() {
                listener();
            }
        }
    }

    /// A reference that does not keep the record.
    pub fn downgrade(&self) -> WeakEndpoint {
        WeakEndpoint(Arc::downgrade(&self.0))
    }

    fn cold(&self) -> MutexGuard<'_, Cold> {
        self.0.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reasons that hold now. Reading changes nothing.
    #[inline]
    pub fn availability(&self) -> Availability {
        Availability::from_bits((self.0.hot.word.load(Ordering::Acquire) & BITS) as u16)
    }

    /// Sets `reason`; whether that changed anything.
    pub fn set(&self, reason: Reason) -> bool {
        let bit = u32::from(Availability::from_iter([reason]).bits());
        let changed = self.0.hot.word.fetch_or(bit, Ordering::AcqRel) & bit == 0;
        Self::count_change(changed, bit);
        changed
    }

    /// Clears `reason`; whether that changed anything.
    pub fn clear(&self, reason: Reason) -> bool {
        let bit = u32::from(Availability::from_iter([reason]).bits());
        let changed = self.0.hot.word.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
        Self::count_change(changed, bit);
        changed
    }

    /// How often any endpoint of this process has become better or worse to pick. What was added up over many endpoints holds while this stays the same; it is
    /// to be read before them.
    #[inline]
    pub fn changes() -> u64 {
        CHANGES.0.load(Ordering::Acquire)
    }

    fn count_change(changed: bool, bit: u32) {
        if changed && bit & PICKING != 0 {
            CHANGES.0.fetch_add(1, Ordering::Release);
        }
    }

    /// Whether nothing at all speaks against picking it: neither a reason that keeps picks away nor one that says it should be avoided.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.0.hot.word.load(Ordering::Acquire) & PICKING == 0
    }

    /// Its share of traffic relative to its peers, as last announced.
    #[inline]
    pub fn weight(&self) -> u32 {
        self.0.hot.weight.load(Ordering::Relaxed)
    }

    /// Whether an ordinary pick may take it at `now`: nothing blocks it, or only an open circuit does whose wait is over, so that a
    /// trial call is wanted.
    #[inline]
    pub fn is_pickable(&self, now: Tick) -> bool {
        let available = self.availability();
        !available.is_blocked() || self.wants_trial(available, now)
    }

    #[cold]
    fn wants_trial(&self, available: Availability, now: Tick) -> bool {
        available.contains(Reason::CircuitOpen)
            && !available.without(Reason::CircuitOpen).is_blocked()
            && self.recheck_due(now)
    }

    /// Opens the circuit: sets [`Reason::CircuitOpen`] until a trial call is wanted at `recheck_at`. The latency learned while things went bad is
    /// forgotten: nobody would pick the endpoint for the trial call that finds out whether they are good again.
    ///
    /// `believe_probes`: whether an active probe that begins after `now` and passes brings the trial forward, by
    /// [`hint_recovery`](Self::hint_recovery).
    pub fn open_circuit(&self, now: Tick, recheck_at: Option<Tick>, believe_probes: bool) {
        let trial = &self.0.trial;
        let hints_after = if believe_probes { now.as_nanos() } else { u64::MAX };
        trial.hints_after.store(hints_after, Ordering::Relaxed);
        trial.recheck_at.store(recheck_at.map_or(u64::MAX, Tick::as_nanos), Ordering::Relaxed);
        self.forget_latency();
        self.clear(Reason::CircuitHalfOpen);
        self.set(Reason::CircuitOpen);
    }

    /// Whether the wait that [`open_circuit`](Self::open_circuit) set is over.
    pub fn recheck_due(&self, now: Tick) -> bool {
        now.as_nanos() >= self.0.trial.recheck_at.load(Ordering::Relaxed)
    }

    /// When a trial call is wanted, if the circuit is waiting for a time at all.
    pub fn recheck_at(&self) -> Option<Tick> {
        let at = self.0.trial.recheck_at.load(Ordering::Relaxed);
        (at != u64::MAX).then(|| Tick::from_nanos(at))
    }

    /// Ejects it from among its peers: sets [`Reason::Ejected`], and forgets the latency learned while things went bad, as
    /// [`open_circuit`](Self::open_circuit) does.
    ///
    /// `believe_probes`: whether an active probe that begins after `now` and passes takes it back, by [`hint_recovery`](Self::hint_recovery).
    pub fn eject(&self, now: Tick, believe_probes: bool) {
        self.forget_latency();
        let mut cold = self.cold();
        cold.attached.get_or_insert_default().recovers_after = believe_probes.then_some(now);
        // Inside the lock: a probe that passes now finds both or neither.
        self.set(Reason::Ejected);
    }

    /// Takes it back: clears [`Reason::Ejected`]. Whether it was ejected.
    pub fn restore(&self) -> bool {
        let _cold = self.cold();
        let was_out = self.clear(Reason::Ejected);
        if was_out {
            self.forget_latency();
        }
        was_out
    }

    #[cold]
    fn recover(&self, began: Tick) -> bool {
        let cold = self.cold();
        let recovers_after = cold.attached.as_ref().and_then(|attached| attached.recovers_after);
        let believed = recovers_after.is_some_and(|after| began > after);
        if believed {
            self.forget_latency();
        }
        believed && self.clear(Reason::Ejected)
    }

    /// Tells that an active probe which began at `began` has passed: an open circuit that believes probes wants a trial call at once, an ejection
    /// that does is over, and what failed calls weigh in the latency is forgotten, so that a call finds out whether calls pass too. Whether it
    /// brought anything forward.
    pub fn hint_recovery(&self, began: Tick) -> bool {
        if self.0.hot.word.load(Ordering::Relaxed) & PENALIZED != 0 {
            self.forget_latency();
        }
        let recovered = self.availability().contains(Reason::Ejected) && self.recover(began);
        self.hint_trial(began) || recovered
    }

    fn hint_trial(&self, began: Tick) -> bool {
        let began = began.as_nanos();
        let trial = &self.0.trial;
        if began <= trial.hints_after.load(Ordering::Relaxed) {
            return false;
        }
        let brought_forward = trial.recheck_at.fetch_min(began, Ordering::Relaxed) > began;
        Self::count_change(brought_forward, PICKING);
        brought_forward
    }

    /// Lets trial calls in: [`Reason::CircuitOpen`] becomes [`Reason::CircuitHalfOpen`], and only what they learn of the latency counts.
    pub fn half_open_circuit(&self) {
        self.forget_latency();
        self.set(Reason::CircuitHalfOpen);
        self.clear(Reason::CircuitOpen);
    }

    /// Closes the circuit: neither [`Reason::CircuitOpen`] nor [`Reason::CircuitHalfOpen`].
    pub fn close_circuit(&self) {
        self.0.trial.hints_after.store(u64::MAX, Ordering::Relaxed);
        self.clear(Reason::CircuitHalfOpen);
        self.clear(Reason::CircuitOpen);
    }

    /// Counts a call in. Every call counted in is counted out once, by [`finished`](Self::finished).
    #[inline]
    pub fn started(&self) {
        self.0.hot.started.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call out, by how it ended.
    #[inline]
    pub fn finished(&self, end: CallEnd) {
        let hot = &self.0.hot;
        let counter = match end {
            CallEnd::Answered(Outcome::Success | Outcome::Undecided) => &hot.succeeded,
            CallEnd::Answered(Outcome::Failure(_)) => &hot.failed,
            CallEnd::Answered(Outcome::Ignored | Outcome::Refused) => &hot.ignored,
            CallEnd::Abandoned => &hot.abandoned,
        };
        // Whoever sees the end sees the start, which came before it.
        counter.fetch_add(1, Ordering::Release);
    }

    /// The calls counted so far.
    #[inline]
    pub fn counts(&self) -> CallCounts {
        let hot = &self.0.hot;
        let read = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        // Ends first: a call that starts and ends in between is then at worst still in flight, never negative.
        let (succeeded, failed) = (read(&hot.succeeded), read(&hot.failed));
        let (ignored, abandoned) = (read(&hot.ignored), read(&hot.abandoned));
        CallCounts { started: read(&hot.started), succeeded, failed, ignored, abandoned }
    }

    /// The latency epoch, to be given back with the sample of a call that starts now.
    #[inline]
    pub fn latency_epoch(&self) -> LatencyEpoch {
        LatencyEpoch((self.0.hot.word.load(Ordering::Relaxed) / EPOCH) as u16)
    }

    /// Takes in the latency, in nanoseconds, of a call that started in `epoch`. A sample from before the last
    /// [`forget_latency`](Self::forget_latency) is late news and ignored.
    #[inline]
    pub fn observe_latency(&self, epoch: LatencyEpoch, now: Tick, latency_ns: u64, decay: Decay) {
        if epoch == self.latency_epoch() {
            self.0.hot.latency.observe(now.as_nanos(), latency_ns as f64, decay);
        }
    }

    /// As [`observe_latency`](Self::observe_latency), for what a failed call counts as: it goes with the next passing probe.
    pub fn observe_failure(&self, epoch: LatencyEpoch, now: Tick, latency_ns: u64, decay: Decay) {
        self.observe_latency(epoch, now, latency_ns, decay);
        self.0.hot.word.fetch_or(PENALIZED, Ordering::Relaxed);
    }

    /// Forgets the latency learned so far: the next call is a first call again, whatever calls from before are still in flight.
    pub fn forget_latency(&self) {
        self.0.hot.word.fetch_add(EPOCH, Ordering::AcqRel);
        self.0.hot.word.fetch_and(!PENALIZED, Ordering::Relaxed);
        let in_flight = u32::try_from(self.counts().in_flight()).unwrap_or(u32::MAX);
        self.0.from_before.store(in_flight, Ordering::Relaxed);
        self.0.hot.latency.forget();
    }

    /// The latency estimate at `now`, decayed with `decay` since the last sample; none without history.
    pub fn latency(&self, now: Tick, decay: Decay) -> Option<Duration> {
        let cost = self.0.hot.latency.get(now.as_nanos(), decay);
        (cost > 0.0).then(|| Duration::from_nanos(cost as u64))
    }

    /// How loaded it looks at `now`: latency estimate times calls in flight, over its weight. Lower is better; no unit.
    #[inline]
    pub fn load(&self, now: Tick, decay: Decay) -> f64 {
        let hot = &self.0.hot;
        if self.availability().contains(Reason::CircuitHalfOpen) {
            // It wants its trial calls, and admits no more than these: whatever else it is busy with must not keep them away.
            return 0.0;
        }
        let cost = hot.latency.get(now.as_nanos(), decay);
        let mut pending = self.counts().in_flight();
        if cost == 0.0 {
            // Calls from before tell nothing, perhaps for hours: a newcomer is one that has calls of its own out.
            pending = pending.saturating_sub(self.0.from_before.load(Ordering::Relaxed).into());
        }
        let load = ewma::load(cost, pending);
        match hot.weight.load(Ordering::Relaxed) {
            1 => load,
            weight => load / f64::from(weight),
        }
    }
}

impl fmt::Debug for EndpointHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointHandle")
            .field("id", self.id())
            .field("availability", &self.availability())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// A reference to the record of an endpoint that does not keep it; cheap to clone.
#[derive(Clone)]
pub struct WeakEndpoint(Weak<Record>);

impl WeakEndpoint {
    /// The record, if anybody still keeps it. Who calls this may be the last to drop it, with all that is attached: not under a lock that
    /// any of that takes.
    pub fn upgrade(&self) -> Option<EndpointHandle> {
        self.0.upgrade().map(EndpointHandle)
    }
}

impl fmt::Debug for WeakEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakEndpoint").field("is_alive", &(self.0.strong_count() > 0)).finish()
    }
}

/// Which stretch of an endpoint's history a latency sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyEpoch(u16);

/// How a call that was counted in is counted out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// It ended with this outcome.
    Answered(Outcome),
    /// It was dropped before its end.
    Abandoned,
}

/// Calls of one endpoint since it appeared. At rest, `started` is the sum of the other four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CallCounts {
    /// Sent, or about to be.
    pub started: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
    /// Ended without saying anything of the endpoint.
    pub ignored: u64,
    /// Dropped before the end: a timeout of ours, a lost hedge, a caller gone.
    pub abandoned: u64,
}

impl CallCounts {
    /// Calls not yet ended.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.started.saturating_sub(self.succeeded + self.failed + self.ignored + self.abandoned)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod tests {
    use super::*;
    use crate::classify::Origin;

    fn tau() -> Decay {
        Decay::new(Duration::from_secs(10))
    }

    fn handle() -> (EndpointHandle, Tick) {
        (EndpointHandle::new("a:1".parse().unwrap()), Tick::of(std::time::Instant::now()))
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_key_has_a_name_for_as_long_as_its_record_lives() {
        let (handle, _) = handle();
        let key = handle.key();
        assert_eq!(EndpointHandle::id_of(key).as_ref(), Some(handle.id()));
        drop(handle);
        assert_eq!(EndpointHandle::id_of(key), None);
    }

    #[test]
    fn each_layer_owns_its_own_reason() {
        let (handle, _) = handle();
        assert!(handle.set(Reason::ProbeDown) && !handle.set(Reason::ProbeDown));
        handle.set(Reason::CircuitOpen);
        assert!(handle.clear(Reason::ProbeDown));
        assert_eq!(handle.availability(), [Reason::CircuitOpen].into_iter().collect());
    }

    #[test]
    fn an_open_circuit_wants_a_trial_when_its_wait_is_over_unless_something_else_blocks() {
        let (handle, now) = handle();
        let due = now + seconds(5);
        handle.open_circuit(now, Some(due), true);
        assert!(!handle.is_pickable(now) && handle.is_pickable(due));
        handle.set(Reason::ProbeDown);
        assert!(!handle.is_pickable(due));
        handle.clear(Reason::ProbeDown);
        handle.half_open_circuit();
        assert!(handle.is_pickable(now));
    }

    #[test]
    fn only_a_probe_that_began_after_the_trip_brings_the_trial_forward() {
        let (handle, now) = handle();
        let at = |n| now + seconds(n);
        handle.open_circuit(at(1), Some(at(60)), true);
        assert!(!handle.hint_recovery(now));
        assert!(!handle.is_pickable(at(2)));
        assert!(handle.hint_recovery(at(2)));
        assert!(handle.is_pickable(at(2)));
        handle.open_circuit(at(1), Some(at(60)), false);
        assert!(!handle.hint_recovery(at(3)), "a circuit that stopped believing probes waits for its time");
        handle.open_circuit(now, None, true);
        assert!(!handle.is_pickable(at(1000)), "forced open: no time is set");
    }

    #[test]
    fn counts_balance_and_late_latency_is_ignored() {
        let (handle, now) = handle();
        handle.started();
        handle.started();
        let old = handle.latency_epoch();
        handle.finished(CallEnd::Answered(Outcome::Failure(Origin::Remote)));
        handle.observe_latency(old, now, 5_000_000_000, tau());
        assert!(handle.load(now, tau()) > 0.0);
        handle.forget_latency();
        handle.finished(CallEnd::Abandoned);
        handle.observe_latency(old, now, 5_000_000_000, tau());
        assert_eq!(handle.latency(now, tau()), None);
        let counts = handle.counts();
        assert_eq!((counts.started, counts.failed, counts.abandoned, counts.in_flight()), (2, 1, 1, 0));
    }

    #[test]
    fn calls_from_before_the_trip_do_not_keep_the_trial_call_away() {
        let (handle, now) = handle();
        handle.started();
        handle.observe_latency(handle.latency_epoch(), now, 5_000_000_000, tau());
        handle.started();
        handle.open_circuit(now, Some(now), false);
        assert_eq!(handle.load(now, tau()), 0.0, "two are out, and may be for hours");
        handle.half_open_circuit();
        handle.started();
        handle.observe_latency(handle.latency_epoch(), now, 5_000_000_000, tau());
        assert_eq!(handle.load(now, tau()), 0.0, "one trial call is back, others are wanted");
        handle.close_circuit();
        assert!(handle.load(now, tau()) > 1e9, "closed, it is one of many");
    }

    #[test]
    fn a_passing_probe_takes_back_what_a_failure_weighs_and_nothing_else() {
        let (handle, now) = handle();
        let epoch = handle.latency_epoch();
        handle.observe_latency(epoch, now, 4_000_000, tau());
        handle.hint_recovery(now + seconds(1));
        assert!(handle.latency(now, tau()).is_some(), "slow is not failed");
        handle.observe_failure(epoch, now, 5_000_000_000, tau());
        assert!(handle.load(now, tau()) > 1e9);
        assert_eq!(handle.availability(), Availability::FULL, "a weight is no reason");
        handle.hint_recovery(now + seconds(1));
        assert_eq!(handle.load(now, tau()), 0.0);
    }

    #[test]
    fn who_listens_is_told_as_long_as_it_is_there_and_may_use_the_record() {
        let (handle, _) = handle();
        let told = Arc::new(AtomicU32::new(0));
        let listener = |told: &Arc<AtomicU32>| -> Arc<DownListener> {
            let (told, of) = (told.clone(), handle.downgrade());
            Arc::new(move || {
                // Were it told under the lock of the record, this would hang.
                of.upgrade().unwrap().endpoint();
                told.fetch_add(1, Ordering::Relaxed);
            })
        };
        let (first, second) = (listener(&told), listener(&told));
        handle.on_down(&first);
        handle.on_down(&second);
        handle.tell_down();
        assert_eq!(told.load(Ordering::Relaxed), 2);
        drop(first);
        handle.tell_down();
        assert_eq!(told.load(Ordering::Relaxed), 3);
        for _ in 0..100 {
            handle.on_down(&listener(&told));
        }
        let kept = handle.cold().attached.as_ref().unwrap().down_listeners.len();
        assert!(kept <= 2, "{kept}: who is gone is forgotten");
    }

    #[test]
    fn weight_shares_the_load_and_an_update_keeps_what_was_learned() {
        let (handle, now) = handle();
        handle.observe_latency(handle.latency_epoch(), now, 4_000_000, tau());
        let before = handle.load(now, tau());
        let weight = std::num::NonZeroU32::new(4).unwrap();
        handle.update(handle.endpoint().as_ref().clone().with_weight(weight));
        assert_eq!(handle.load(now, tau()), before / 4.0);
    }

    #[test]
    fn what_is_attached_goes_with_the_record_and_may_use_it_no_more() {
        struct Attachment {
            of: WeakEndpoint,
            next: EndpointHandle,
            gone: Arc<AtomicU32>,
        }
        impl Drop for Attachment {
            fn drop(&mut self) {
                let alone = self.of.upgrade().is_none();
                self.gone.fetch_add(u32::from(alone), Ordering::Relaxed);
                // Were it dropped under the lock of a record, one that reaches back would hang here.
                self.next.attach(self.gone.clone());
            }
        }
        let ((a, _), (b, _)) = (handle(), handle());
        let gone = Arc::new(AtomicU32::new(0));
        for _ in 0..2 {
            a.attach(Arc::new(Attachment { of: a.downgrade(), next: b.clone(), gone: gone.clone() }));
        }
        let (weak, clone) = (a.downgrade(), a.clone());
        a.update("a:2".parse().unwrap());
        drop(a);
        assert_eq!((gone.load(Ordering::Relaxed), weak.upgrade().unwrap().key()), (0, clone.key()));
        drop(clone);
        assert_eq!(gone.load(Ordering::Relaxed), 2);
        assert_eq!(Arc::strong_count(&gone), 3, "attached to the other endpoint");
        drop(b);
        assert_eq!(Arc::strong_count(&gone), 1);
    }

    #[test]
    fn a_record_keeps_to_two_cache_lines_and_what_calls_touch_to_one() {
        assert_eq!(size_of::<Hot>(), 64);
        // Elsewhere a mutex may be larger.
        if cfg!(all(target_os = "linux", target_pointer_width = "64")) {
            assert_eq!(size_of::<Record>(), 128);
        }
    }
}

/// The word and the counters; the latency within is one writer's or another's, whole by itself.
#[cfg(all(loom, test))]
#[expect(clippy::disallowed_methods, reason = "time is an argument; tests need some instant")]
mod loom_tests {
    use loom::thread;

    use super::*;

    fn beside<R: Send + 'static>(
        handle: &EndpointHandle,
        run: impl FnOnce(EndpointHandle) -> R + Send + 'static,
    ) -> thread::JoinHandle<R> {
        let handle = handle.clone();
        thread::spawn(move || run(handle))
    }

    #[test]
    fn loom_no_layer_loses_its_reason_to_another_and_one_of_two_hears_of_the_change() {
        loom::model(|| {
            let handle = EndpointHandle::new("a:1".parse().unwrap());
            handle.set(Reason::Ejected);
            let other = beside(&handle, |handle| {
                handle.clear(Reason::Ejected);
                u32::from(handle.set(Reason::ProbeDown))
            });
            let now = Tick::of(std::time::Instant::now());
            handle.open_circuit(now, None, true);
            let own = u32::from(handle.set(Reason::ProbeDown));
            assert_eq!(own + other.join().unwrap(), 1);
            let expected = [Reason::ProbeDown, Reason::CircuitOpen];
            assert_eq!(handle.availability(), expected.into_iter().collect());
        });
    }

    #[test]
    fn loom_calls_in_flight_are_never_negative_and_come_to_nothing() {
        loom::model(|| {
            let handle = EndpointHandle::new("a:1".parse().unwrap());
            let other = beside(&handle, |handle| {
                handle.started();
                handle.finished(CallEnd::Abandoned);
            });
            handle.started();
            let counts = handle.counts();
            assert!((1..=2).contains(&counts.in_flight()), "{counts:?}");
            handle.finished(CallEnd::Answered(Outcome::Success));
            other.join().unwrap();
            assert_eq!(handle.counts().in_flight(), 0);
        });
    }
}
