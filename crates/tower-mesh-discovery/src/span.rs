//! The span around an attempt. Its name, fields and values are part of the public interface: the table is in the README of `tower-mesh`.

use tower_mesh_core::classify::{Origin, Outcome};
use tower_mesh_core::{CallContext, DropReason, EndpointHandle, Tick};
use tracing::Span;
use tracing::field::{self, Empty};
use tracing::span::Entered;

/// There only if somebody wants it: one word, so that an attempt without a span carries nothing around. Dropped before it is told how the attempt ended, it tells
/// why it was dropped.
#[derive(Debug)]
pub(crate) struct AttemptSpan(Option<Box<Wanted>>);

#[derive(Debug)]
struct Wanted {
    span: Span,
    started: Tick,
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
        Self((!span.is_disabled()).then(|| Box::new(Wanted { span, started })))
    }

    /// What runs while this is kept is inside the span, if there is one.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        self.0.as_ref().map(|wanted| wanted.span.enter())
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
    fn ended(&self, how: &'static str) {
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
