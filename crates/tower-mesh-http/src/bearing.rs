//! The token that a binding adds to the requests of an endpoint, if there is one.

use http::HeaderMap;

#[cfg(feature = "credentials")]
use crate::credentials::BearerToken;

/// Without the feature `credentials` it holds nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bearing {
    #[cfg(feature = "credentials")]
    token: Option<BearerToken>,
}

impl Bearing {
    #[cfg(feature = "credentials")]
    pub(crate) fn of(token: BearerToken) -> Self {
        Self { token: Some(token) }
    }

    /// Adds the token of the moment, unless the request says already by what it is authorized.
    #[inline]
    pub(crate) fn authorize(&self, headers: &mut HeaderMap) {
        #[cfg(feature = "credentials")]
        if let Some(token) = &self.token {
            token.authorize(headers);
        }
        #[cfg(not(feature = "credentials"))]
        let _ = headers;
    }
}
