//! What stands inside a mesh in tests without a network: requests, resolvers, probes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tower_mesh::MeshRequest;
use tower_mesh::core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh::core::{EndpointHandle, Resolve, ResolveError, ServiceName, Update};

/// A request that is a plain struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query(pub(crate) String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows(pub(crate) String);

impl MeshRequest for Query {
    type Response = Rows;
}

pub(crate) fn query(text: &str) -> Query {
    Query(text.to_owned())
}

/// What a source does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Says {
    Endpoint(&'static str),
    Nothing,
    Error(&'static str),
    NotFound,
}

/// A source that says one thing and then keeps its stream open. It counts its streams.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    says: Says,
    after: Duration,
    streams: Arc<Streams>,
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: AtomicUsize,
    opened: AtomicUsize,
}

impl Streams {
    /// How many are open now, and how many ever were.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.open.load(Ordering::Relaxed), self.opened.load(Ordering::Relaxed))
    }
}

impl Source {
    pub(crate) fn new(streams: &Arc<Streams>, says: Says) -> Self {
        Self { says, after: Duration::ZERO, streams: streams.clone() }
    }

    /// Says it only then.
    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

impl Resolve for Source {
    type Updates = Updates;

    fn resolve(&self, _service: &ServiceName) -> Updates {
        self.streams.open.fetch_add(1, Ordering::Relaxed);
        self.streams.opened.fetch_add(1, Ordering::Relaxed);
        let item = match self.says {
            Says::Endpoint(address) => Some(Ok(Update::Reset(vec![address.parse().unwrap()]))),
            Says::Nothing => None,
            Says::Error(text) => Some(Err(ResolveError::new(text))),
            Says::NotFound => Some(Ok(Update::NotFound)),
        };
        let after = self.after;
        let said = stream::once(async move {
            tokio::time::sleep(after).await;
            item
        });
        let items = said.filter_map(std::future::ready).chain(stream::pending()).boxed();
        Updates { items, streams: self.streams.clone() }
    }
}

pub(crate) struct Updates {
    items: BoxStream<'static, Result<Update, ResolveError>>,
    streams: Arc<Streams>,
}

impl Stream for Updates {
    type Item = Result<Update, ResolveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_next_unpin(cx)
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A probe that passes, and counts by what endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counting(Arc<(AtomicU64, AtomicU64)>);

impl Counting {
    /// Checks of endpoints whose address begins with `a`, and of all others.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed))
    }
}

impl Probe for Counting {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let a = endpoint.endpoint().address().starts_with('a');
        let counter = if a { &self.0.0 } else { &self.0.1 };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Probed::Healthy)
    }
}

/// Tasks alive on this runtime, after everybody who can run has run.
pub(crate) async fn tasks() -> usize {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Takes in what this thread logs, until it is dropped. While a process has one subscriber alone, a line that another thread comes by first, where nobody listens, is of no
/// interest to it either: so there is a second.
pub(crate) fn listen(subscriber: impl ::tracing::Subscriber + Send + Sync) -> impl Sized {
    let second = ::tracing::Dispatch::new(::tracing::subscriber::NoSubscriber::new());
    (::tracing::subscriber::set_default(subscriber), second)
}
