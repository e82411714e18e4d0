//! The connection that all of one resolver's work shares.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::Client;

use crate::config::EtcdConfig;
use crate::error::EtcdError;

/// Connects when somebody needs it, and anew after somebody found it broken.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) config: Arc<EtcdConfig>,
    current: Arc<Mutex<Current>>,
}

#[derive(Default)]
struct Current {
    generation: u64,
    client: Option<Client>,
}

/// A client, and which it was.
pub(crate) struct Connected {
    pub(crate) client: Client,
    generation: u64,
}

impl Connections {
    pub(crate) fn new(config: EtcdConfig) -> Self {
        Self { config: Arc::new(config), current: Arc::default() }
    }

    /// The connection there is, or a new one. `key` is for the error.
    pub(crate) async fn get(&self, key: &str) -> Result<Connected, EtcdError> {
        if let Some(connected) = self.there() {
            return Ok(connected);
        }
        let connecting = Client::connect(self.config.servers(), Some(self.config.options()));
        let client = bounded(self.config.timeout(), key, connecting).await?;
        // Of several that connected at once the first one stays.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let client = current.client.get_or_insert(client).clone();
        Ok(Connected { client, generation: current.generation })
    }

    fn there(&self) -> Option<Connected> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let client = current.client.clone()?;
        Some(Connected { client, generation: current.generation })
    }

    /// That one did not do: whoever comes next connects anew.
    pub(crate) fn broken(&self, connected: &Connected) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.generation == connected.generation {
            let gone = current.client.take();
            current.generation += 1;
            drop(current);
            drop(gone);
        }
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
