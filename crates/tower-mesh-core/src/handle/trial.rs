//! Circuits and ejections: what takes an endpoint out, and what brings it back.

use super::{EndpointHandle, PENALIZED, PICKING};
use crate::availability::Reason;
use crate::sync::atomic::Ordering;
use crate::tick::Tick;

impl EndpointHandle {
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
}
