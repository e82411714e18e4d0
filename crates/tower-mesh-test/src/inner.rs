//! The inner service that a layer under test is put around.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower_mesh_core::{BoxError, CallContext, DropReason, Tick};
use tower_service::Service;

use crate::record::{Down, Lease, Readiness, Record};

type Answer<Res> = Pin<Box<dyn Future<Output = Result<Res, BoxError>> + Send>>;
type Script<Req, Res> = dyn Fn(u64, Req) -> Answer<Res> + Send + Sync;

/// An inner service that does what a script says, and takes tower's contract at its word.
///
/// Readiness belongs to the value that was polled: a clone starts without it, and a call takes it. Whoever calls a value that was not
/// polled ready, or polls a call that has ended, finds the reason in [`violations`](Self::violations).
///
/// Clones share script and record, so that the test keeps one and gives another to the layer. `Req` and `Res` are bound by nothing.
pub struct Inner<Req, Res> {
    value: u64,
    lease: Option<Lease>,
    script: Arc<Script<Req, Res>>,
    record: Arc<Record>,
}

impl<Req, Res> Inner<Req, Res> {
    /// A service whose calls do what the future that `script` gives does; it is told the number of the call, from 1. Sleeping makes the call slow, and
    /// [`pending`](std::future::pending) makes it hang.
    pub fn new<F>(script: impl Fn(u64, Req) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Res, BoxError>> + Send + 'static,
    {
        let record = Arc::new(Record::default());
        Self {
            value: record.next_value(),
            lease: None,
            script: Arc::new(move |call, request| Box::pin(script(call, request))),
            record,
        }
    }

    /// Makes readiness take one of `permits`: a value holds it from the moment it is ready until it is dropped, and a call until its future ends.
    pub fn with_permits(self, permits: usize) -> Self {
        self.record.limit(permits);
        self
    }

    /// From now on `poll_ready` is pending, until [`release`](Self::release). Values that are ready stay so.
    pub fn hold(&self) {
        self.record.set_readiness(Readiness::Held);
    }

    /// From now on `poll_ready` fails, with [`Down`].
    pub fn fail_readiness(&self) {
        self.record.set_readiness(Readiness::Failing(Down("readiness".into())));
    }

    /// From now on `poll_ready` succeeds; all who wait are woken.
    pub fn release(&self) {
        self.record.set_readiness(Readiness::Ready);
    }

    /// How often the contract was broken, and how.
    pub fn violations(&self) -> Vec<&'static str> {
        self.record.state().violations.clone()
    }

    /// Calls made.
    pub fn calls(&self) -> u64 {
        self.record.state().calls
    }

    /// When each call was made.
    pub fn called_at(&self) -> Vec<Tick> {
        self.record.state().called_at.clone()
    }

    /// How often `poll_ready` was asked.
    pub fn asked(&self) -> u64 {
        self.record.state().asked
    }

    /// How often calls were polled.
    pub fn polls(&self) -> u64 {
        self.record.state().polls
    }

    /// Calls that came to their end.
    pub fn finished(&self) -> u64 {
        self.record.state().finished
    }

    /// Why calls were dropped before their end, as their guards are told: in the order in which it happened.
    pub fn dropped(&self) -> Vec<DropReason> {
        self.record.state().dropped.clone()
    }

    /// Permits in the hands of ready values and of calls.
    pub fn permits_out(&self) -> usize {
        self.record.state().permits_out
    }
}

impl<Req, Res> Clone for Inner<Req, Res> {
    fn clone(&self) -> Self {
        Self {
            value: self.record.next_value(),
            lease: None,
            script: self.script.clone(),
            record: self.record.clone(),
        }
    }
}

impl<Req, Res> Drop for Inner<Req, Res> {
    fn drop(&mut self) {
        self.record.stop_waiting(self.value);
    }
}

impl<Req, Res> Service<Req> for Inner<Req, Res> {
    type Response = Res;
    type Error = BoxError;
    type Future = InnerFuture<Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.lease.is_none() {
            self.lease = Some(ready!(self.record.ask(self.value, cx.waker()))?);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> InnerFuture<Res> {
        let lease = self.lease.take();
        if lease.is_none() {
            self.record.violation("called a value that was not polled ready");
        }
        let started = CallContext::attempt_started(clock);
        let call = {
            let mut state = self.record.state();
            state.calls += 1;
            state.called_at.push(started);
            state.calls
        };
        let answer = (self.script)(call, request);
        InnerFuture { answer: Some(answer), started, lease, record: self.record.clone() }
    }
}

impl<Req, Res> fmt::Debug for Inner<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("value", &self.value)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// One call of an [`Inner`]. Dropped before its end, it notes why.
pub struct InnerFuture<Res> {
    /// None once it has ended.
    answer: Option<Answer<Res>>,
    started: Tick,
    lease: Option<Lease>,
    record: Arc<Record>,
}

impl<Res> Future for InnerFuture<Res> {
    type Output = Result<Res, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.record.state().polls += 1;
        let Some(answer) = &mut this.answer else {
            this.record.violation("polled a call that had ended");
            return Poll::Pending;
        };
        let result = ready!(answer.as_mut().poll(cx));
        this.answer = None;
        this.lease = None;
        this.record.state().finished += 1;
        Poll::Ready(result)
    }
}

impl<Res> Drop for InnerFuture<Res> {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.record.dropped(self.started);
        }
    }
}

impl<Res> fmt::Debug for InnerFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InnerFuture").field("ended", &self.answer.is_none()).finish_non_exhaustive()
    }
}

/// The layers' clock: tokio's, so that a paused one reaches the kit too.
fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stepped;
    use std::task::Waker;

    struct Plain;

    fn ask<S: Service<Plain>>(service: &mut S) -> bool {
        service.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn inner() -> Inner<Plain, u64> {
        Inner::new(
            |call, _: Plain| async move { if call == 1 { std::future::pending().await } else { Ok(call) } },
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_clone_called_without_being_polled_is_caught() {
        let mut service = inner();
        assert!(ask(&mut service));
        drop(service.clone().call(Plain));
        assert_eq!(service.violations().len(), 1);
        drop(service.call(Plain));
        assert_eq!(service.violations().len(), 1, "the original had been polled");
        drop(service.call(Plain));
        assert_eq!(service.violations().len(), 2, "a call takes readiness with it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_polled_after_its_end_is_caught() {
        let mut service = inner();
        drop(service.call(Plain));
        assert!(ask(&mut service));
        let mut call = service.call(Plain);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut call).poll(cx).is_ready());
        assert!(Pin::new(&mut call).poll(cx).is_pending());
        assert_eq!(service.violations().len(), 2);
        assert_eq!((service.calls(), service.finished(), service.dropped().len()), (2, 1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_readiness_are_woken_and_each_only_once() {
        let service = inner();
        service.hold();
        let wait = |mut service: Inner<Plain, u64>| {
            Stepped::new(std::future::poll_fn(move |cx| service.poll_ready(cx).map(|ready| ready.is_ok())))
        };
        let (mut first, mut second) = (wait(service.clone()), wait(service.clone()));
        assert!(first.poll().is_pending() && second.poll().is_pending());
        drop(first);
        service.release();
        assert_eq!(second.wakes(), 1);
        assert_eq!(second.poll(), Poll::Ready(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_out_from_readiness_to_the_end_of_the_call() {
        let mut service = inner().with_permits(1);
        assert!(ask(&mut service));
        assert_eq!(service.permits_out(), 1, "held by a value that only waits");
        let mut other = service.clone();
        assert!(!ask(&mut other));
        let call = service.call(Plain);
        assert!(!ask(&mut other));
        drop(call);
        assert!(ask(&mut other));
        drop(other);
        assert_eq!(service.permits_out(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_tells_the_reason_lent_for_its_own_attempt() {
        let mut service = inner();
        assert!(ask(&mut service));
        let mut context = CallContext::new();
        let call = context.lend(|| service.call(Plain));
        context.drop_for(DropReason::HedgeLost, call);
        assert_eq!(service.dropped(), [DropReason::HedgeLost]);
    }
}
