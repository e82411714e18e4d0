//! One timer for all that a call waits for, armed when it is first needed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::coop::unconstrained;
use tokio::time::Sleep;
use tower_mesh_core::Tick;

/// A [`Sleep`] that does not exist until somebody waits. Boxed: most calls never wait, and need not carry the room for it.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Waits until `at`, whatever was waited for before.
    pub(crate) fn poll_until(&mut self, at: Tick, cx: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at.instant());
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        // tokio lets a task that has used up its turn wait even for what is over, and does not so much as start its timer: an inner future that
        // uses up every turn would never time out.
        Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx)
    }
}

#[cfg(test)]
impl Timer {
    pub(crate) fn is_armed(&self) -> bool {
        self.sleep.is_some()
    }
}

/// The time, as tokio tells it, so that a paused clock reaches every layer.
pub(crate) fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}
