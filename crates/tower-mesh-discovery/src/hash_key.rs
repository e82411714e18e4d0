//! The layer that says what a call is to be hashed by.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_mesh_core::CallScope;
use tower_service::Service;

/// Gives each call the hash key that [`Algorithm::RingHash`](crate::Algorithm::RingHash) and [`Algorithm::Maglev`](crate::Algorithm::Maglev) go by, from its request.
///
/// It may stand anywhere outside the balancer, as long as no layer in between moves the call to another task. [`hash`](crate::hash) turns bytes into a key.
///
/// ```
/// use tower::{ServiceBuilder, service_fn};
/// use tower_mesh_core::{BoxError, CallContext};
/// use tower_mesh_discovery::{HashKeyLayer, hash};
///
/// struct Query { user: String }
///
/// let service = ServiceBuilder::new()
///     .layer(HashKeyLayer::new(|query: &Query| hash(query.user.as_bytes())))
///     .service(service_fn(|_: Query| async {
///         Ok::<_, BoxError>(CallContext::with(|call| call.hash_key()).flatten())
///     }));
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # let call = tower::ServiceExt::oneshot(service, Query { user: "7".into() });
/// # assert_eq!(runtime.block_on(call).unwrap(), Some(hash(b"7")));
/// ```
#[derive(Clone)]
pub struct HashKeyLayer<F>(F);

impl<F> HashKeyLayer<F> {
    /// The key of a request is what `key` makes of it.
    pub fn new(key: F) -> Self {
        Self(key)
    }
}

impl<S, F: Clone> Layer<S> for HashKeyLayer<F> {
    type Service = HashKey<S, F>;

    fn layer(&self, inner: S) -> HashKey<S, F> {
        HashKey { inner, key: self.0.clone() }
    }
}

impl<F> fmt::Debug for HashKeyLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKeyLayer")
    }
}

/// Made by a [`HashKeyLayer`]. Ready when the inner service is.
#[derive(Clone)]
pub struct HashKey<S, F> {
    inner: S,
    key: F,
}

impl<S, F, Req> Service<Req> for HashKey<S, F>
where
    S: Service<Req>,
    F: Fn(&Req) -> u64,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HashKeyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let key = (self.key)(&request);
        let mut scope = CallScope::join();
        scope.with(|call| call.set_hash_key(key));
        HashKeyFuture { future: scope.run(|| self.inner.call(request)), scope }
    }
}

impl<S, F> fmt::Debug for HashKey<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKey").finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// The response of [`HashKey`]. Dropping it drops the inner future, nothing else.
    pub struct HashKeyFuture<F> {
        #[pin]
        future: F,
        scope: CallScope,
    }
}

impl<F: Future> Future for HashKeyFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let future = this.future;
        this.scope.run(|| future.poll(cx))
    }
}

impl<F> fmt::Debug for HashKeyFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKeyFuture").finish_non_exhaustive()
    }
}
