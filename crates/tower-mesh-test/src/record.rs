//! What an inner service has seen, and what it lets happen.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tower_mesh_core::{BoxError, CallContext, DropReason, Tick};

/// The failure that the kit's services answer with, so that a test can find it again in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down(pub String);

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is down", self.0)
    }
}

impl std::error::Error for Down {}

/// Shared by all values of one inner service and by the calls they made.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<State>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) readiness: Readiness,
    /// Permits not taken; none if readiness takes no permit.
    free: Option<usize>,
    /// The tasks that wait for readiness, by the value they hold.
    waiting: HashMap<u64, Waker>,
    values: u64,
    pub(crate) asked: u64,
    pub(crate) calls: u64,
    pub(crate) polls: u64,
    pub(crate) finished: u64,
    pub(crate) violations: Vec<&'static str>,
    pub(crate) dropped: Vec<DropReason>,
    pub(crate) called_at: Vec<Tick>,
    pub(crate) permits_out: usize,
}

/// What `poll_ready` answers.
#[derive(Debug, Default, Clone)]
pub(crate) enum Readiness {
    #[default]
    Ready,
    Held,
    Failing(Down),
}

impl Record {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn limit(&self, permits: usize) {
        self.state().free = Some(permits);
    }

    pub(crate) fn next_value(&self) -> u64 {
        let mut state = self.state();
        state.values += 1;
        state.values
    }

    pub(crate) fn set_readiness(&self, readiness: Readiness) {
        self.state().readiness = readiness;
        self.wake_all();
    }

    /// Everyone looks again. Wakers are others' code: called with the lock released.
    fn wake_all(&self) {
        let waiting = std::mem::take(&mut self.state().waiting);
        waiting.into_values().for_each(Waker::wake);
    }

    pub(crate) fn stop_waiting(&self, value: u64) {
        // Bound first: a waker may own the task that owns this, and must not be dropped under the lock.
        let waker = self.state().waiting.remove(&value);
        drop(waker);
    }

    /// The readiness of one value, with the permit that it takes.
    pub(crate) fn ask(self: &Arc<Self>, value: u64, waker: &Waker) -> Poll<Result<Lease, BoxError>> {
        let mut state = self.state();
        state.asked += 1;
        match (&state.readiness, state.free) {
            (Readiness::Failing(down), _) => Poll::Ready(Err(down.clone().into())),
            (Readiness::Held, _) | (Readiness::Ready, Some(0)) => {
                let replaced = state.waiting.insert(value, waker.clone());
                drop(state);
                drop(replaced);
                Poll::Pending
            }
            (Readiness::Ready, None) => Poll::Ready(Ok(Lease(None))),
            (Readiness::Ready, Some(free)) => {
                state.free = Some(free - 1);
                state.permits_out += 1;
                Poll::Ready(Ok(Lease(Some(self.clone()))))
            }
        }
    }

    pub(crate) fn violation(&self, what: &'static str) {
        self.state().violations.push(what);
    }

    /// Notes a call that is dropped before its end.
    pub(crate) fn dropped(&self, started: Tick) {
        let reason = CallContext::drop_reason_of(started);
        self.state().dropped.push(reason);
    }
}

/// Leave for one call. Given back when it is dropped: with the value that was readied, or with the call that was made.
#[derive(Debug)]
pub(crate) struct Lease(Option<Arc<Record>>);

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(record) = self.0.take() {
            {
                let mut state = record.state();
                state.permits_out -= 1;
                state.free = state.free.map(|free| free + 1);
            }
            record.wake_all();
        }
    }
}
