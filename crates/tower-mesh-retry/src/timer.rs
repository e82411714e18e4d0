//! One timer for all that a call waits for, armed when it is first needed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::task::coop::unconstrained;
use tokio::time::Sleep;
use tower_mesh_core::{CallContext, Tick};

pin_project! {
    /// A [`Sleep`] that does not exist until somebody waits.
    #[derive(Debug, Default)]
    pub(crate) struct Timer {
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Timer {
    /// Waits until `at`, whatever was waited for before.
    pub(crate) fn poll_until(self: Pin<&mut Self>, at: Tick, cx: &mut Context<'_>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at.instant());
        let mut slot = self.project().sleep;
        if slot.is_none() {
            slot.set(Some(tokio::time::sleep_until(at)));
        }
        let Some(mut sleep) = slot.as_pin_mut() else { unreachable!("just set") };
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        // tokio lets a task that has used up its turn wait even for what is over, and does not so much as start its timer: an inner future that
        // uses up every turn would never time out.
        Pin::new(&mut unconstrained(sleep)).poll(cx)
    }
}

/// Tells whoever owns the deadline of `call`, if it is lent now, that the timer of this layer ends the call by then.
///
/// For a layer that is pending and only then: one that has answered keeps nothing, though the call may go on further out.
pub(crate) fn keep_deadline(call: &CallContext) {
    let Some(deadline) = call.deadline() else {
        return;
    };
    CallContext::with(|outer| {
        if outer.deadline().is_some_and(|outer| deadline <= outer) {
            outer.keep_deadline();
        }
    });
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
