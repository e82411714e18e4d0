use tower::ServiceBuilder;
use tower::layer::util::Stack;
use tower_mesh_breaker::{BreakerConfig, BreakerLayer};
use tower_mesh_retry::{DeadlineConfig, DeadlineLayer, HedgeConfig, HedgeLayer, RetryConfig, RetryLayer};

/// The layers by name on tower's [`ServiceBuilder`], for a stack that is put together by hand. The outermost comes first, in this order: deadline, retry, hedge,
/// breaker.
///
/// A layer that is to be shared, watched or told more is made by itself and given to [`ServiceBuilder::layer`].
///
/// ```
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_mesh::ServiceBuilderExt;
/// use tower_mesh::breaker::BreakerConfig;
/// use tower_mesh::http::Classifier;
/// use tower_mesh::retry::{DeadlineConfig, RetryConfig};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// # use std::sync::atomic::{AtomicU16, Ordering};
/// # let asked = std::sync::Arc::new(AtomicU16::new(0));
/// # let client = service_fn(move |_: http::Request<String>| {
/// #     let status = if asked.fetch_add(1, Ordering::Relaxed) == 0 { 503 } else { 200 };
/// #     async move { http::Response::builder().status(status).body(String::new()) }
/// # });
/// let client = ServiceBuilder::new()
///     .mesh_deadline(DeadlineConfig::default())
///     .mesh_retry(RetryConfig::default(), Classifier::default())
///     .mesh_breaker(BreakerConfig::default(), Classifier::default())
///     .service(client); // any HTTP client; here one that answers 503, and then 200
/// let response = client.oneshot(http::Request::get("/").body(String::new())?).await?;
/// assert_eq!(response.status(), 200);
/// # Ok(()) }
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// A bound for the whole call: [`DeadlineLayer`].
    fn mesh_deadline(self, config: DeadlineConfig) -> ServiceBuilder<Stack<DeadlineLayer, L>>;

    /// Sends again what failed, by what `classifier` says of answers and of requests: [`RetryLayer`].
    fn mesh_retry<C: Clone>(
        self,
        config: RetryConfig,
        classifier: C,
    ) -> ServiceBuilder<Stack<RetryLayer<C>, L>>;

    /// Sends a second copy when the first takes long, by what `classifier` says of answers and of requests: [`HedgeLayer`].
    fn mesh_hedge<C: Clone>(
        self,
        config: HedgeConfig,
        classifier: C,
    ) -> ServiceBuilder<Stack<HedgeLayer<C>, L>>;

    /// A circuit around everything inside, by what `classifier` says of answers: [`BreakerLayer`].
    fn mesh_breaker<C>(
        self,
        config: BreakerConfig,
        classifier: C,
    ) -> ServiceBuilder<Stack<BreakerLayer<C>, L>>;

    /// In a server: takes the caller's deadline over to the calls inside: [`IncomingLayer`](tower_mesh_http::IncomingLayer).
    #[cfg(feature = "http")]
    fn mesh_incoming(self) -> ServiceBuilder<Stack<tower_mesh_http::IncomingLayer, L>>;

    /// Around a client: tells the server how much time is left: [`OutgoingLayer`](tower_mesh_http::OutgoingLayer).
    #[cfg(feature = "http")]
    fn mesh_outgoing(self) -> ServiceBuilder<Stack<tower_mesh_http::OutgoingLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    fn mesh_deadline(self, config: DeadlineConfig) -> ServiceBuilder<Stack<DeadlineLayer, L>> {
        self.layer(DeadlineLayer::new(config))
    }

    fn mesh_retry<C: Clone>(
        self,
        config: RetryConfig,
        classifier: C,
    ) -> ServiceBuilder<Stack<RetryLayer<C>, L>> {
        self.layer(RetryLayer::new(config, classifier))
    }

    fn mesh_hedge<C: Clone>(
        self,
        config: HedgeConfig,
        classifier: C,
    ) -> ServiceBuilder<Stack<HedgeLayer<C>, L>> {
        self.layer(HedgeLayer::new(config, classifier))
    }

    fn mesh_breaker<C>(
        self,
        config: BreakerConfig,
        classifier: C,
    ) -> ServiceBuilder<Stack<BreakerLayer<C>, L>> {
        self.layer(BreakerLayer::new(config, classifier))
    }

    #[cfg(feature = "http")]
    fn mesh_incoming(self) -> ServiceBuilder<Stack<tower_mesh_http::IncomingLayer, L>> {
        self.layer(tower_mesh_http::IncomingLayer::new())
    }

    #[cfg(feature = "http")]
    fn mesh_outgoing(self) -> ServiceBuilder<Stack<tower_mesh_http::OutgoingLayer, L>> {
        self.layer(tower_mesh_http::OutgoingLayer::new())
    }
}

mod sealed {
    pub trait Sealed {}
    impl<L> Sealed for tower::ServiceBuilder<L> {}
}
