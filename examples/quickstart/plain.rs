//! What the program would do without a mesh: the same client, the servers in turn, and a timeout.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use tower::Service;
use tower_mesh::core::BoxError;
use tower_mesh::discovery::FixedList;

use crate::HttpClient;

/// Sends each request to the next server of the list that discovery has.
#[derive(Clone)]
pub(crate) struct RoundRobin {
    client: HttpClient,
    list: FixedList,
    next: Arc<AtomicUsize>,
    patience: Duration,
}

impl RoundRobin {
    pub(crate) fn new(client: HttpClient, list: FixedList, patience: Duration) -> Self {
        Self { client, list, next: Arc::default(), patience }
    }
}

impl Service<Request<Empty<Bytes>>> for RoundRobin {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Empty<Bytes>>) -> Self::Future {
        let endpoints = self.list.endpoints();
        let endpoint = &endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
        let uri = format!("http://{}{}", endpoint.address(), request.uri().path()).parse::<Uri>();
        let (client, patience) = (self.client.clone(), self.patience);
        Box::pin(async move {
            *request.uri_mut() = uri?;
            Ok(tokio::time::timeout(patience, client.request(request)).await??)
        })
    }
}
