//! The connection that all of one resolver's work shares.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::Client;

use crate::config::EtcdConfig;
use crate::error::EtcdError;

/// Connects when somebody needs it. A connection that broke is made anew by the client below, and so is a token that is not taken any more.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) config: Arc<EtcdConfig>,
    client: Arc<OnceLock<Client>>,
}

impl Connections {
    pub(crate) fn new(config: EtcdConfig) -> Self {
        Self { config: Arc::new(config), client: Arc::default() }
    }

    /// The connection there is, or a new one. `key` is for the error.
    pub(crate) async fn get(&self, key: &str) -> Result<Client, EtcdError> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let connecting = Client::connect(self.config.servers(), Some(self.config.options()));
        let client = bounded(self.config.timeout(), key, connecting).await?;
        // Of several that connected at once the first one stays.
        Ok(self.client.get_or_init(|| client).clone())
    }
}

/// The outcome of a request, within a bound.
pub(crate) async fn bounded<T>(
    bound: Duration,
    key: &str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, EtcdError> {
    match tokio::time::timeout(bound, request).await {
        Ok(outcome) => outcome.map_err(|error| EtcdError::of_client(key, error)),
        Err(_) => Err(EtcdError::timeout(key)),
    }
}
