//! Steady open-loop traffic: a request is sent when its time has come, whatever became of those before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};
use tower_mesh::core::BoxError;

/// A request as the callers make it.
pub(crate) fn request() -> Request<Empty<Bytes>> {
    Request::get("/").body(Empty::new()).expect("a path is a URI")
}

/// What the callers of one client see, while it happens.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) asked: AtomicU64,
    pub(crate) succeeded: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// What they have seen.
pub(crate) struct Record {
    pub(crate) asked: u64,
    pub(crate) succeeded: u64,
    /// Of all requests, in microseconds from when each was due.
    pub(crate) latency: Histogram<u64>,
}

/// Sends traffic through one client.
pub(crate) struct Caller {
    counts: Arc<Counts>,
    latency: Arc<Mutex<Histogram<u64>>>,
    sending: JoinHandle<()>,
}

impl Caller {
    /// Sends `rate` requests a second through `service` for `length`.
    pub(crate) fn start<S, B>(service: S, rate: u32, length: Duration) -> Self
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: BodyExt + Send + 'static,
        B::Data: Send,
    {
        let counts = Arc::new(Counts::default());
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds in order");
        let latency = Arc::new(Mutex::new(histogram));
        let (told, recorded) = (counts.clone(), latency.clone());
        #[expect(clippy::disallowed_methods, reason = "joined by finish")]
        let sending = tokio::task::spawn(async move {
            let calls = TaskTracker::new();
            let mut due = interval(Duration::from_secs(1) / rate);
            // Late ticks are made up for: the load does not yield to a slow server.
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let end = Instant::now() + length;
            loop {
                let since = due.tick().await;
                if since >= end {
                    break;
                }
                let (service, told, recorded) = (service.clone(), told.clone(), recorded.clone());
                told.asked.fetch_add(1, Ordering::Relaxed);
                calls.spawn(async move {
                    let counter = if is_success(service).await { &told.succeeded } else { &told.failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                    let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    recorded.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(took);
                });
            }
            calls.close();
            calls.wait().await;
        });
        Self { counts, latency, sending }
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Waits for the last answer.
    pub(crate) async fn finish(self) -> Record {
        self.sending.await.expect("the sender does not panic");
        Record {
            asked: self.counts.asked.load(Ordering::Relaxed),
            succeeded: self.counts.succeeded.load(Ordering::Relaxed),
            latency: self.latency.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// One call as its caller sees it: a 2xx answer, read to its end.
async fn is_success<S, B>(service: S) -> bool
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: BodyExt,
{
    // What went wrong is of no interest here, and an error need not be one that can wait in a task.
    let Some(response) = service.oneshot(request()).await.ok() else { return false };
    response.status().is_success() && response.into_body().collect().await.is_ok()
}
