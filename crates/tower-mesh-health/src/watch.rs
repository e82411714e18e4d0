use tower_layer::Layer;

/// Stands where one endpoint is checked, and adds nothing to its service; made by [`HealthLayer::watching`](crate::HealthLayer::watching).
///
/// The checks are tied to the endpoint's record and not to the service, so calls pay nothing for them.
#[derive(Debug, Clone)]
pub struct WatchLayer(());

impl WatchLayer {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = S;

    fn layer(&self, inner: S) -> S {
        inner
    }
}
