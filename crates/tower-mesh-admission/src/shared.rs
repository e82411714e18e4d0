//! What all services made from one layer share.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tower_mesh_core::classify::{Origin, Outcome};
use tower_mesh_core::{Priority, Tick};

use crate::config::AdmissionConfig;
use crate::error::{OverloadReason, Overloaded};
use crate::gate::Entry;
use crate::limiter::Limiter;
use crate::policy::LimitSample;
use crate::throttle::Throttle;

pub(crate) struct Shared {
    config: Mutex<AdmissionConfig>,
    limits: AtomicBool,
    throttles: AtomicBool,
    limiter: Limiter,
    throttle: Throttle,
}

impl Shared {
    pub(crate) fn new(config: AdmissionConfig, now: Tick) -> Self {
        Self {
            config: Mutex::new(config),
            limits: AtomicBool::new(config.get_limit().is_some()),
            throttles: AtomicBool::new(config.get_success_rate().is_some()),
            limiter: Limiter::new(config.get_limit().unwrap_or_default()),
            throttle: Throttle::new(config.get_success_rate().unwrap_or_default(), now),
        }
    }

    /// Whether nothing is admitted by anything: no call need be counted.
    #[inline]
    pub(crate) fn is_off(&self) -> bool {
        !self.limits.load(Relaxed) && !self.throttles.load(Relaxed)
    }

    /// Of how many under way the call is one (0 if they are not counted), or that it has to wait.
    #[inline]
    pub(crate) fn enter(&self, priority: Priority, now: impl FnOnce() -> Tick) -> Result<Entry, Overloaded> {
        if self.throttles.load(Relaxed) && self.throttle.refuses(priority, now(), fastrand::f64) {
            return Err(Overloaded::new(OverloadReason::SuccessRate, priority));
        }
        if !self.limits.load(Relaxed) {
            return Ok(Entry::Now(0));
        }
        self.limiter.enter(priority).ok_or_else(|| self.refusal(OverloadReason::Limit, priority))
    }

    #[cold]
    pub(crate) fn refusal(&self, reason: OverloadReason, priority: Priority) -> Overloaded {
        self.limiter.count_refused(priority);
        Overloaded::new(reason, priority)
    }

    pub(crate) fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// A call that was admitted as one of `number` has ended, or is not made.
    #[inline]
    pub(crate) fn leave(&self, number: u32) {
        if number != 0 {
            self.limiter.gate().leave();
        }
    }

    /// As [`leave`](Self::leave), and what became of it.
    #[inline]
    pub(crate) fn ended(&self, number: u32, outcome: Outcome, started: Tick, now: impl FnOnce() -> Tick) {
        let throttles = self.throttles.load(Relaxed);
        let adapts = number != 0 && self.limiter.adapts();
        let counts = matches!(outcome, Outcome::Success | Outcome::Failure(_));
        if counts && (throttles || adapts) {
            let now = now();
            if throttles {
                self.throttle.record(outcome == Outcome::Success, now);
            }
            let dropped = matches!(outcome, Outcome::Failure(Origin::Local | Origin::Overload));
            // A failure of the server's own says neither that it is fast nor that it is overloaded.
            if adapts && (dropped || outcome == Outcome::Success) {
                let sample = LimitSample { started, ended: now, in_flight: number, dropped };
                self.limiter.observe(sample);
            }
        }
        // Last: who waits for the place comes under the limit that this call has left.
        self.leave(number);
    }

    pub(crate) fn config(&self) -> AdmissionConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reload(&self, config: AdmissionConfig, now: Tick) {
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        match config.get_limit() {
            Some(limit) => self.limiter.reload(limit, current.get_limit().is_some()),
            None => self.limiter.open(),
        }
        if let Some(success_rate) = config.get_success_rate() {
            self.throttle.reload(success_rate, now);
        }
        self.limits.store(config.get_limit().is_some(), Relaxed);
        self.throttles.store(config.get_success_rate().is_some(), Relaxed);
        *current = config;
        drop(current);
        // Wakes who waits: after the lock.
        self.limiter.gate().hand_over();
    }

    pub(crate) fn snapshot(&self, now: Tick) -> AdmissionSnapshot {
        let config = self.config();
        let limit = config.get_limit().map(|_| {
            let (in_flight, waiting) = self.limiter.gate().counts();
            let [sheddable, normal, critical] = self.limiter.refused();
            let refused = RefusedByPriority { sheddable, normal, critical };
            LimitSnapshot { limit: self.limiter.limit(), in_flight, waiting, refused }
        });
        let success_rate = config.get_success_rate().map(|_| {
            let (refused, total, succeeded) = self.throttle.counts(now);
            SuccessRateSnapshot { rejection: self.throttle.probability(now), total, succeeded, refused }
        });
        AdmissionSnapshot { limit, success_rate }
    }
}

/// What a layer admits by, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct AdmissionSnapshot {
    /// The limit; none if there is none.
    pub limit: Option<LimitSnapshot>,
    /// The success rate; none if nothing goes by it.
    pub success_rate: Option<SuccessRateSnapshot>,
}

/// A limit at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitSnapshot {
    /// The limit.
    pub limit: u32,
    /// Calls under way.
    pub in_flight: u32,
    /// Calls that wait for one of those to end.
    pub waiting: u32,
    /// Calls refused so far.
    pub refused: RefusedByPriority,
}

/// Calls refused so far, by their priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RefusedByPriority {
    /// Sheddable ones.
    pub sheddable: u64,
    /// Normal ones.
    pub normal: u64,
    /// Critical ones.
    pub critical: u64,
}

impl RefusedByPriority {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.sheddable + self.normal + self.critical
    }
}

/// A success rate at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SuccessRateSnapshot {
    /// The chance that a normal call is refused now, from 0 to 1.
    pub rejection: f64,
    /// Calls in the window.
    pub total: u64,
    /// Those of them that succeeded.
    pub succeeded: u64,
    /// Calls refused so far.
    pub refused: u64,
}
