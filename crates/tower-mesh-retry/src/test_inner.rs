//! The inner service of the tests: it loses readiness when cloned, and does what the test says, call by call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tower_mesh_core::{BoxError, CallContext, DropReason, Tick};
use tower_service::Service;

use crate::timer::clock;

pub(crate) const SEC: Duration = Duration::from_secs(1);

type Answer<Res> = Pin<Box<dyn Future<Output = Result<Res, BoxError>> + Send>>;
type Script<Req, Res> = dyn Fn(u32, Req) -> Answer<Res> + Send + Sync;
type Readiness = dyn Fn(u32) -> Poll<Result<(), BoxError>> + Send + Sync;

pub(crate) struct Inner<Req, Res> {
    ready: bool,
    shared: Arc<Shared<Req, Res>>,
}

struct Shared<Req, Res> {
    script: Box<Script<Req, Res>>,
    readiness: Box<Readiness>,
    calls: AtomicU32,
    asked: AtomicU32,
    called_at: Mutex<Vec<Tick>>,
}

impl<Req, Res> Inner<Req, Res> {
    /// `script` is given the number of the call, from 1.
    pub(crate) fn new<F>(script: impl Fn(u32, Req) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Res, BoxError>> + Send + 'static,
    {
        Self::with_readiness(|_| Poll::Ready(Ok(())), script)
    }

    /// `readiness` is given the number of the question, from 1. What is pending wakes nobody.
    pub(crate) fn with_readiness<F>(
        readiness: impl Fn(u32) -> Poll<Result<(), BoxError>> + Send + Sync + 'static,
        script: impl Fn(u32, Req) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Res, BoxError>> + Send + 'static,
    {
        let shared = Shared {
            script: Box::new(move |n, request| Box::pin(script(n, request))),
            readiness: Box::new(readiness),
            calls: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            called_at: Mutex::default(),
        };
        Self { ready: false, shared: Arc::new(shared) }
    }

    pub(crate) fn calls(&self) -> u32 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// The time between each call and the next.
    pub(crate) fn waits(&self) -> Vec<Duration> {
        let at = self.shared.called_at.lock().unwrap();
        at.windows(2).map(|pair| pair[1].since(pair[0])).collect()
    }

    /// How many values of this service there are.
    pub(crate) fn values(&self) -> usize {
        Arc::strong_count(&self.shared)
    }
}

impl<Req, Res> Clone for Inner<Req, Res> {
    fn clone(&self) -> Self {
        Self { ready: false, shared: self.shared.clone() }
    }
}

impl<Req, Res> Service<Req> for Inner<Req, Res> {
    type Response = Res;
    type Error = BoxError;
    type Future = Answer<Res>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let answer = (self.shared.readiness)(self.shared.asked.fetch_add(1, Ordering::Relaxed) + 1);
        self.ready = matches!(answer, Poll::Ready(Ok(())));
        answer
    }

    fn call(&mut self, request: Req) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called a value that was not made ready");
        let at = CallContext::attempt_started(clock);
        self.shared.called_at.lock().unwrap().push(at);
        (self.shared.script)(self.shared.calls.fetch_add(1, Ordering::Relaxed) + 1, request)
    }
}

/// A failure nobody has heard of.
#[derive(Debug, PartialEq)]
pub(crate) struct Down(pub(crate) u32);

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "down {}", self.0)
    }
}

impl std::error::Error for Down {}

pub(crate) fn down<Res>(n: u32) -> Result<Res, BoxError> {
    Err(Down(n).into())
}

/// Tells, when it is dropped, why the attempt is that it was made in.
pub(crate) struct Tell {
    started: Tick,
    told: Told,
}

pub(crate) type Told = Arc<Mutex<Vec<DropReason>>>;

impl Tell {
    pub(crate) fn new(told: &Told) -> Self {
        Self { started: CallContext::attempt_started(clock), told: told.clone() }
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        let reason = CallContext::drop_reason_of(self.started);
        self.told.lock().unwrap().push(reason);
    }
}
