//! The span around an attempt. Its name, fields and values are part of the public interface: the table is in the README of `tower-mesh`.

use std::sync::atomic::{AtomicBool, Ordering};

use tower_mesh_core::classify::{Origin, Outcome};
use tower_mesh_core::{CallContext, DropReason, EndpointHandle, Tick};
use tracing::Span;
use tracing::field::{self, Empty};

/// There only if somebody wants it: one word, so that an attempt without a span carries nothing around. Dropped before it is told how the attempt ended, it tells
/// why it was dropped.
#[derive(Debug)]
pub(crate) struct AttemptSpan(Option<Box<Wanted>>);

#[derive(Debug)]
struct Wanted {
    span: Span,
    started: Tick,
    inside: AtomicBool,
}

impl AttemptSpan {
    /// Around a call to `endpoint`. If nobody takes spans of this level it is one read of a static.
    #[inline(always)]
    pub(crate) fn new(endpoint: &EndpointHandle, started: Tick) -> Self {
        let wanted = tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG;
        if wanted { Self::wanted(endpoint, started) } else { Self(None) }
    }

    #[cold]
    #[inline(never)]
    fn wanted(endpoint: &EndpointHandle, started: Tick) -> Self {
        let span = tracing::debug_span!(
            target: "tower_mesh",
            "mesh.attempt",
            mesh.attempt = CallContext::with(|call| call.attempt()).unwrap_or(1),
            mesh.endpoint = field::display(endpoint.id()),
            mesh.outcome = Empty,
        );
        Self(
            (!span.is_disabled()).then(|| Box::new(Wanted { span, started, inside: AtomicBool::new(false) })),
        )
    }

    /// What runs until [`leave`](Self::leave) is inside the span, if there is one. Without a guard, since one more value to be dropped on the way makes the futures of
    /// calls be moved once more; dropped in between, by a panic, the span is left.
    #[inline(always)]
    pub(crate) fn enter(&self) {
        if let Some(wanted) = &self.0 {
            wanted.enter();
        }
    }

    #[inline(always)]
    pub(crate) fn leave(&self) {
        if let Some(wanted) = &self.0 {
            wanted.leave();
        }
    }

    /// Says how it ended.
    #[inline(always)]
    pub(crate) fn ended(&mut self, outcome: Outcome) {
        if let Some(wanted) = self.0.take() {
            wanted.ended(match outcome {
                Outcome::Success => "ok",
                Outcome::Undecided => "undecided",
                Outcome::Failure(Origin::Local) => "local",
                Outcome::Failure(Origin::Remote) => "remote",
                Outcome::Failure(Origin::Overload) => "overload",
                Outcome::Refused => "refused",
                Outcome::Ignored => "ignored",
            });
        }
    }
}

impl Wanted {
    #[cold]
    #[inline(never)]
    fn enter(&self) {
        self.inside.store(true, Ordering::Relaxed);
        self.span.with_subscriber(|(id, subscriber)| subscriber.enter(id));
    }

    #[cold]
    #[inline(never)]
    fn leave(&self) {
        if self.inside.swap(false, Ordering::Relaxed) {
            self.span.with_subscriber(|(id, subscriber)| subscriber.exit(id));
        }
    }

    #[cold]
    #[inline(never)]
    fn ended(&self, how: &'static str) {
        self.leave();
        self.span.record("mesh.outcome", how);
    }
}

impl Drop for AttemptSpan {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(wanted) = self.0.take() {
            let reason = CallContext::drop_reason_of(wanted.started);
            wanted.ended(match reason {
                DropReason::AttemptTimeout => "attempt-timeout",
                DropReason::DeadlineExceeded => "deadline",
                DropReason::HedgeLost => "hedge-lost",
                _ => "caller-gone",
            });
        }
    }
}
