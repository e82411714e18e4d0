//! What can be seen of a circuit from outside.

use std::sync::Arc;

use tokio::sync::Notify;
use tower_mesh_core::window::WindowCounts;
use tower_mesh_core::{EndpointHandle, Tick};

use super::Circuit;
use crate::policy::machine::{State, Transition};
use crate::sync::atomic::Ordering;

impl Circuit {
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

    /// Notified at each change from now on.
    pub(crate) fn changed(&self) -> &Arc<Notify> {
        self.0.changed.get().unwrap_or_else(|| {
            // Under the lock: a change either finds it, or came before and is seen by who looks next.
            let _machine = self.machine();
            self.0.changed.get_or_init(Arc::default)
        })
    }

    /// Tells `listener` of every transition of this circuit from now on, after it is in force. It runs on the thread that caused it, mostly a caller's, under
    /// no lock, and should be quick; if it panics, nobody else is harmed. Two transitions that follow one another closely on two threads may be told in the
    /// other order: their generations say which came first.
    pub fn on_transition(&self, listener: impl Fn(&CircuitEvent) + Send + Sync + 'static) {
        self.0.listeners.get_or_init(Box::default).add(listener);
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
