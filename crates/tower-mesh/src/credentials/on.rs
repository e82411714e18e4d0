use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::watch;
use tower_mesh_core::error::Mistake;
use tower_mesh_core::{Bind, EndpointHandle};
use tower_mesh_http::credentials::BearerToken;
use tower_mesh_http::{Authority, Rewrite};

use crate::config::{CredentialsConfig, TokenSource};

/// The token, which everything that was made of the service shares, and how often its file is read.
pub(crate) struct Credentials {
    token: BearerToken,
    every: watch::Sender<Duration>,
}

impl Credentials {
    /// What is there now. A mistake does not tell what stands in the field: somebody may have put the token itself there.
    pub(crate) fn load(config: &CredentialsConfig) -> Result<Self, Mistake> {
        let (field, token, allowed) = match &config.source {
            TokenSource::File(path) => {
                let token = BearerToken::from_file_blocking(path);
                ("credentials.bearer_file", token, "a file that holds a bearer token")
            }
            TokenSource::Environment(name) => {
                let token = BearerToken::from_env(name);
                ("credentials.bearer_env", token, "a variable of the environment that holds a bearer token")
            }
        };
        let token = token.map_err(|why| Mistake::new(field, why.reason(), allowed))?;
        Ok(Self { token, every: watch::Sender::new(config.reload) })
    }

    /// Goes by `next` from now on, in everything that was made with this.
    pub(crate) fn take_over(&self, next: &Self) {
        self.token.take_over(&next.token);
        self.every.send_replace(*next.every.borrow());
    }

    /// Reads the file again and again, for as long as there is the service.
    pub(crate) fn driver(&self) -> impl Future<Output = ()> + Send + 'static {
        let (token, mut every) = (self.token.clone(), self.every.subscribe());
        async move {
            loop {
                let watching = pin!(token.watch(*every.borrow_and_update()));
                match select(watching, pin!(every.changed())).await {
                    Either::Right((Ok(()), _)) => {}
                    Either::Right((Err(_), _)) | Either::Left(_) => return,
                }
            }
        }
    }
}

/// Binds a client to each endpoint by its address.
pub(crate) fn authority<C: Clone>(
    credentials: Option<&Credentials>,
) -> impl Bind<C, Service = Rewrite<C>> + Send + Sync + 'static {
    let token = credentials.map(|credentials| credentials.token.clone());
    move |client: &C, endpoint: &EndpointHandle| {
        let bound = Authority.bind(client, endpoint);
        match &token {
            Some(token) => bound.bearing(token.clone()),
            None => bound,
        }
    }
}

/// The same for tonic's channels.
#[cfg(feature = "tonic")]
pub(crate) fn channels(
    credentials: Option<&Credentials>,
    channels: tower_mesh_http::Channels,
) -> tower_mesh_http::Channels {
    match credentials {
        Some(credentials) => channels.bearing(credentials.token.clone()),
        None => channels,
    }
}
