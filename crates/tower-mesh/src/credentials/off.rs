use std::future::Ready;

use tower_mesh_core::error::Mistake;

use crate::config::CredentialsConfig;

/// A build without the feature has none: its configurations have no such table.
pub(crate) enum Credentials {}

impl Credentials {
    pub(crate) fn load(config: &CredentialsConfig) -> Result<Self, Mistake> {
        match *config {}
    }

    pub(crate) fn take_over(&self, _: &Self) {
        match *self {}
    }

    pub(crate) fn driver(&self) -> Ready<()> {
        match *self {}
    }
}

#[cfg(feature = "http")]
pub(crate) fn authority(_: Option<&Credentials>) -> tower_mesh_http::Authority {
    tower_mesh_http::Authority
}

#[cfg(feature = "tonic")]
pub(crate) fn channels(
    _: Option<&Credentials>,
    channels: tower_mesh_http::Channels,
) -> tower_mesh_http::Channels {
    channels
}
