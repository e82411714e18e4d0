//! The span around a call. Its name, fields and values are part of the public interface: the table is in the crate's README.

use tower_mesh_core::{Operation, ServiceName};
use tracing::Span;
use tracing::field::Empty;
use tracing::span::Entered;

/// There only if somebody wants it: one word, so that a call without a span carries nothing around. Dropped before it is told how the call ended, it tells that.
#[derive(Debug)]
pub(crate) struct CallSpan(Option<Box<Span>>);

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
            mesh.outcome = Empty,
        );
        Self((!span.is_disabled()).then(|| Box::new(span)))
    }

    /// What runs while this is kept is inside the span, if there is one.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        self.0.as_ref().map(|span| span.enter())
    }

    /// Says how it ended; `outcome` is asked only if there is a span.
    #[inline(always)]
    pub(crate) fn ended(&mut self, outcome: impl FnOnce() -> &'static str) {
        if let Some(span) = self.0.take() {
            end(&span, outcome());
        }
    }
}

#[cold]
#[inline(never)]
fn end(span: &Span, outcome: &'static str) {
    span.record("mesh.outcome", outcome);
}

impl Drop for CallSpan {
    #[inline(always)]
    fn drop(&mut self) {
        self.ended(|| "caller-gone");
    }
}
