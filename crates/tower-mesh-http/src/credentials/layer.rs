use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::token::BearerToken;

/// Sends a [`BearerToken`] with every request: `authorization` in HTTP, which is a call's metadata in gRPC. One that the request has already is left as it is.
///
/// It stands around an endpoint's client, inside retry, so that each attempt has the token of its moment. Whoever reads the connection reads the token:
/// send it over TLS.
///
/// ```
/// use secrecy::SecretString;
/// use tower_layer::Layer;
/// use tower_mesh_http::credentials::{BearerLayer, BearerToken};
/// # fn f() -> Result<(), tower_mesh_http::credentials::InvalidToken> {
/// # let hyper_client = tower::service_fn(|_: http::Request<()>| async { Ok::<_, std::io::Error>(()) });
/// let token = BearerToken::new(SecretString::from("c2VjcmV0"))?;
/// let client = BearerLayer::new(token).layer(hyper_client);
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct BearerLayer(BearerToken);

impl BearerLayer {
    /// Sends this token.
    pub fn new(token: BearerToken) -> Self {
        Self(token)
    }
}

impl<S> Layer<S> for BearerLayer {
    type Service = Bearer<S>;

    fn layer(&self, inner: S) -> Bearer<S> {
        Bearer { inner, token: self.0.clone() }
    }
}

/// Made by [`BearerLayer`].
#[derive(Debug, Clone)]
pub struct Bearer<S> {
    inner: S,
    token: BearerToken,
}

impl<S, B> Service<Request<B>> for Bearer<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        self.token.authorize(request.headers_mut());
        self.inner.call(request)
    }
}
