//! The span around a call. Its name, fields and values are part of the public interface: the table is in the crate's README.

use std::sync::atomic::{AtomicBool, Ordering};

use tower_mesh_core::{Operation, ServiceName};
use tracing::Span;
use tracing::field::Empty;

/// There only if somebody wants it: one word, so that a call without a span carries nothing around. Dropped before it is told how the call ended, it tells that.
#[derive(Debug)]
pub(crate) struct CallSpan(Option<Box<Wanted>>);

#[derive(Debug)]
struct Wanted {
    span: Span,
    inside: AtomicBool,
}

impl CallSpan {
    /// Whether anybody takes spans of this level: one read of a static.
    #[inline(always)]
    pub(crate) fn is_wanted() -> bool {
        tracing::level_filters::LevelFilter::current() >= tracing::Level::DEBUG
    }

    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// The retry layer fills in what it does.
    pub(crate) fn new(service: &ServiceName, operation: Option<Operation>) -> Self {
        let span = tracing::debug_span!(
            target: "tower_mesh",
            "mesh.call",
            mesh.service = service.as_str(),
            mesh.operation = operation.map(Operation::as_str),
            mesh.attempts = 1_u32,
            mesh.retry.reason = Empty,
            mesh.retry.delay_ms = Empty,
            mesh.retry.stopped = Empty,
            mesh.retry.balance = Empty,
            mesh.outcome = Empty,
        );
        Self((!span.is_disabled()).then(|| Box::new(Wanted { span, inside: AtomicBool::new(false) })))
    }

    /// What runs until [`leave`](Self::leave) is inside the span, if there is one. Dropped in between, by a panic, the span is left.
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

    /// Says how it ended; `outcome` is asked only if there is a span.
    #[inline(always)]
    pub(crate) fn ended(&mut self, outcome: impl FnOnce() -> &'static str) {
        if let Some(wanted) = self.0.take() {
            wanted.ended(outcome());
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
    fn ended(&self, outcome: &'static str) {
        self.leave();
        self.span.record("mesh.outcome", outcome);
    }
}

impl Drop for CallSpan {
    #[inline(always)]
    fn drop(&mut self) {
        self.ended(|| "caller-gone");
    }
}
