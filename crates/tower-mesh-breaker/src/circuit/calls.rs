//! What a call asks of a circuit, and what it tells at its end.

use std::time::Duration;

use tower_mesh_core::Tick;
use tower_mesh_core::classify::{Outcome, Verdict};
use tower_mesh_core::prefetch::prefetch_beside;
use tower_mesh_core::window::Sample;

use super::{Circuit, HOT, IN_A_SET, Permit, chance, word};
use crate::error::CircuitOpen;
use crate::metering;
use crate::policy::machine::{Admission, Counted, TripReason, rate_reached};
use crate::sync::atomic::{AtomicU64, Ordering};

impl Circuit {
    /// Asks memory for what a call through a closed circuit touches: two lines of it, from the counts of references to the end of the window's hot part.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch_beside(&self.0.word, -1);
        prefetch_beside(&self.0.word, (HOT / size_of::<AtomicU64>()) as isize - 1);
    }

    /// Asks to make a call at `now`. The permit must be finished; dropped, it counts for nothing and gives a trial call back.
    ///
    /// This is also what moves an open circuit whose wait is over to half-open.
    ///
    /// # Errors
    /// When the circuit is open, or half-open with all trial calls out.
    pub fn acquire(&self, now: Tick) -> Result<Permit, CircuitOpen> {
        Ok(Permit::of(self.clone(), self.admit(|| now)?))
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
}
