//! One check under way, as the prober keeps it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use futures_util::stream::StreamExt;
use tower_mesh_core::probe::{ProbeFailure, ProbeStream, Probed};
use tower_mesh_core::{EndpointHandle, Probe, Tick};

use crate::prober::clock;
use crate::registry::Serial;

/// Any [`Probe`], so that neither the layer nor the prober has to name its type.
pub(crate) trait AnyProbe: Send + Sync {
    fn check(self: Arc<Self>, endpoint: EndpointHandle) -> BoxFuture<'static, Result<Probed, ProbeFailure>>;
    fn stream(&self, endpoint: &EndpointHandle) -> Option<ProbeStream>;
}

impl<P: Probe> AnyProbe for P {
    fn check(self: Arc<Self>, endpoint: EndpointHandle) -> BoxFuture<'static, Result<Probed, ProbeFailure>> {
        async move { self.probe(&endpoint).await }.boxed()
    }

    fn stream(&self, endpoint: &EndpointHandle) -> Option<ProbeStream> {
        self.watch(endpoint)
    }
}

/// A check that is over, or news of a stream.
pub(crate) struct Ended {
    pub(crate) serial: Serial,
    pub(crate) began: Tick,
    pub(crate) ended: Tick,
    pub(crate) result: Result<Probed, ProbeFailure>,
    pub(crate) kind: EndKind,
    /// Whether the endpoint had hung before.
    pub(crate) hung: bool,
}

pub(crate) enum EndKind {
    /// A check by asking.
    Asked,
    /// A stream told this, and goes on.
    Told(ProbeStream),
    /// A stream ended with this; whether it had told anything before.
    StreamOver(bool),
    /// It was taken back, and has no result.
    Aborted,
}

/// Asks, and is over within `timeout`. The handle takes it back.
pub(crate) fn ask(
    serial: Serial,
    began: Tick,
    hung: bool,
    check: BoxFuture<'static, Result<Probed, ProbeFailure>>,
    timeout: Duration,
) -> (BoxFuture<'static, Ended>, AbortHandle) {
    let check = bounded(check, timeout);
    ended(serial, began, hung, async move { (check.await.and_then(|result| result), EndKind::Asked) })
}

/// Waits for the first word of a stream, and is over within `timeout`.
pub(crate) fn listen(
    serial: Serial,
    began: Tick,
    hung: bool,
    stream: ProbeStream,
    timeout: Duration,
) -> (BoxFuture<'static, Ended>, AbortHandle) {
    ended(serial, began, hung, async move { told(bounded(news_of(stream), timeout).await, false) })
}

/// Waits for more of a stream that has told something, for as long as it takes.
pub(crate) fn listen_on(
    serial: Serial,
    began: Tick,
    stream: ProbeStream,
) -> (BoxFuture<'static, Ended>, AbortHandle) {
    ended(serial, began, false, async move { told(panicking(news_of(stream)).await, true) })
}

/// `check`, over for better or worse within `timeout`, whatever it does short of blocking.
async fn bounded<T>(check: impl Future<Output = T>, timeout: Duration) -> Result<T, ProbeFailure> {
    match panicking(tokio::time::timeout(timeout, check)).await? {
        Ok(result) => Ok(result),
        Err(_elapsed) => Err(ProbeFailure::unreachable(format!("no answer within {timeout:?}"))),
    }
}

async fn panicking<T>(check: impl Future<Output = T>) -> Result<T, ProbeFailure> {
    let result = AssertUnwindSafe(check).catch_unwind().await;
    result.map_err(|_panic| ProbeFailure::unreachable("the probe panicked"))
}

/// What a stream tells next, and the stream.
async fn news_of(mut stream: ProbeStream) -> (Option<Result<Probed, ProbeFailure>>, ProbeStream) {
    let news = stream.next().await;
    (news, stream)
}

/// What to make of it; `before`: whether the stream had told anything before.
fn told(
    news: Result<(Option<Result<Probed, ProbeFailure>>, ProbeStream), ProbeFailure>,
    before: bool,
) -> (Result<Probed, ProbeFailure>, EndKind) {
    match news {
        Ok((Some(Ok(probed)), stream)) => (Ok(probed), EndKind::Told(stream)),
        Ok((Some(Err(failure)), stream)) if failure.is_answer() => (Err(failure), EndKind::Told(stream)),
        Ok((Some(Err(failure)), _)) | Err(failure) => (Err(failure), EndKind::StreamOver(before)),
        Ok((None, _)) => (Err(ProbeFailure::unreachable("the stream ended")), EndKind::StreamOver(before)),
    }
}

/// A check as the prober keeps it.
fn ended(
    serial: Serial,
    began: Tick,
    hung: bool,
    check: impl Future<Output = (Result<Probed, ProbeFailure>, EndKind)> + Send + 'static,
) -> (BoxFuture<'static, Ended>, AbortHandle) {
    let (check, handle) = abortable(check);
    let check = async move {
        let (result, kind) = check.await.unwrap_or_else(|_aborted| {
            (Err(ProbeFailure::inconclusive("no longer watched")), EndKind::Aborted)
        });
        Ended { serial, began, ended: clock(), result, kind, hung }
    };
    (check.boxed(), handle)
}
