use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Request;
use http::uri::{self, PathAndQuery, Scheme, Uri};
use pin_project_lite::pin_project;
use tower_mesh_core::classify::{Origin, Retry, Verdict};
use tower_mesh_core::error::Judged;
use tower_mesh_core::{Bind, BoxError, EndpointHandle, EndpointId};
use tower_service::Service;

use crate::bearing::Bearing;

/// Binds an HTTP client to one endpoint by writing the endpoint's address into the URI of every request.
///
/// For any client that goes where the URI points: hyper-util's, reqwest's as a service, a tower stack around either. The endpoint's
/// address may be `host:port`, or `http://host:port` or `https://host:port`; without a scheme a request keeps its own, and one that has none
/// becomes `http`. A request for `/path` alone is enough, and a host in its URI is replaced. A `Host` header that the caller set is kept;
/// if there is none, the client makes it from the URI.
///
/// The address is read when the endpoint is bound. TLS verifies the host of the address, so endpoints that are reached by `https` must be
/// named as their certificates are.
///
/// ```
/// use tower_mesh_core::{Bind, EndpointHandle};
/// use tower_mesh_http::Authority;
/// use http::{Request, Response};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_mesh_core::BoxError> {
/// // Stands for any client: it answers where it was sent.
/// let client = tower::service_fn(|request: Request<String>| async move {
///     Ok::<_, std::io::Error>(Response::new(request.uri().to_string()))
/// });
/// let endpoint = EndpointHandle::new("10.0.0.7:8080".parse()?);
/// let service = Authority.bind(&client, &endpoint);
///
/// let request = Request::builder().uri("/users?id=7").body(String::new())?;
/// let response = tower::ServiceExt::oneshot(service, request).await?;
/// assert_eq!(response.into_body(), "http://10.0.0.7:8080/users?id=7");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Authority;

impl<C: Clone> Bind<C> for Authority {
    type Service = Rewrite<C>;

    fn bind(&self, client: &C, endpoint: &EndpointHandle) -> Rewrite<C> {
        Rewrite { inner: client.clone(), target: Target::parse(endpoint), bearing: Bearing::default() }
    }
}

/// A client bound to one endpoint; made by [`Authority`].
///
/// If the endpoint's address is no authority, it is never ready and its calls fail, both with [`InvalidAddress`].
#[derive(Debug, Clone)]
pub struct Rewrite<C> {
    inner: C,
    target: Target,
    pub(crate) bearing: Bearing,
}

impl<C> Rewrite<C> {
    /// The client.
    pub fn get_ref(&self) -> &C {
        &self.inner
    }

    /// Sends this token with every request that has no `authorization`, as [`BearerLayer`](crate::credentials::BearerLayer) does, and in place of one that
    /// was given here before.
    #[cfg(feature = "credentials")]
    pub fn bearing(self, token: crate::credentials::BearerToken) -> Self {
        Self { bearing: Bearing::of(token), ..self }
    }
}

impl<C, B> Service<Request<B>> for Rewrite<C>
where
    C: Service<Request<B>>,
    C::Error: Into<BoxError>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = RewriteFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.poll_target(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> RewriteFuture<C::Future> {
        match &self.target {
            Target::Address { scheme, authority } => {
                self.bearing.authorize(request.headers_mut());
                let uri = std::mem::take(request.uri_mut());
                *request.uri_mut() = with_authority(uri, scheme.as_ref(), authority);
                RewriteFuture::Sent { inner: self.inner.call(request) }
            }
            Target::Invalid(why) => RewriteFuture::Invalid { why: why.clone() },
        }
    }
}

/// `uri` at another place. Three shared pieces are put together: nothing is copied.
fn with_authority(uri: Uri, scheme: Option<&Scheme>, authority: &uri::Authority) -> Uri {
    let mut parts = uri.into_parts();
    parts.authority = Some(authority.clone());
    match scheme {
        Some(scheme) => parts.scheme = Some(scheme.clone()),
        None => {
            parts.scheme.get_or_insert(Scheme::HTTP);
        }
    }
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    Uri::from_parts(parts).expect("scheme, authority and path are what a URI needs")
}

impl<C> Rewrite<C> {
    /// Makes the client ready, unless there is nowhere to go.
    pub(crate) fn poll_target<Req>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>
    where
        C: Service<Req>,
        C::Error: Into<BoxError>,
    {
        match &self.target {
            Target::Address { .. } => self.inner.poll_ready(cx).map_err(Into::into),
            Target::Invalid(why) => Poll::Ready(Err(why.to_error().into())),
        }
    }

    /// The client with where to go, or why that cannot be.
    #[cfg(feature = "reqwest")]
    pub(crate) fn target(&mut self) -> Result<(&mut C, Option<&Scheme>, &uri::Authority), Invalid> {
        match &self.target {
            Target::Address { scheme, authority } => Ok((&mut self.inner, scheme.as_ref(), authority)),
            Target::Invalid(why) => Err(why.clone()),
        }
    }
}

#[derive(Debug, Clone)]
enum Target {
    Address { scheme: Option<Scheme>, authority: uri::Authority },
    Invalid(Invalid),
}

/// Of what the error is made, once for each call.
#[derive(Debug, Clone)]
#[doc(hidden)]
pub struct Invalid {
    endpoint: EndpointId,
    reason: &'static str,
}

impl Invalid {
    pub(crate) fn to_error(&self) -> InvalidAddress {
        InvalidAddress {
            endpoint: self.endpoint.clone(),
            reason: self.reason,
            judged: Judged::new(Verdict::failure(Origin::Local, Retry::NotProcessed)),
        }
    }
}

impl Target {
    fn parse(endpoint: &EndpointHandle) -> Self {
        match address_of(endpoint) {
            Ok((scheme, authority)) => Self::Address { scheme, authority },
            Err(why) => Self::Invalid(why),
        }
    }
}

/// Where an endpoint is.
pub(crate) fn address_of(endpoint: &EndpointHandle) -> Result<(Option<Scheme>, uri::Authority), Invalid> {
    parse_address(endpoint.endpoint().address())
        .map_err(|reason| Invalid { endpoint: endpoint.id().clone(), reason })
}

/// The parts of an endpoint's address: `host:port`, with `http://` or `https://` before it or not.
pub(crate) fn parse_address(address: &str) -> Result<(Option<Scheme>, uri::Authority), &'static str> {
    let (scheme, rest) = match address.split_once("://") {
        None => (None, address),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::HTTP), rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::HTTPS), rest),
        Some(_) => return Err("its scheme is neither http nor https"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("it holds a user name or password");
    }
    match rest.parse::<uri::Authority>() {
        Ok(authority) if authority.host().is_empty() => Err("it has no host"),
        // A client would take the scheme's own port instead.
        Ok(authority) if authority.as_str() != authority.host() && authority.port_u16().is_none() => {
            Err("its port is no number up to 65535")
        }
        Ok(authority) if !is_host(authority.host()) => Err("its host is none that a URL can have"),
        Ok(authority) => Ok((scheme, authority)),
        Err(_) => Err("it is not host:port"),
    }
}

/// Whether reqwest's URLs take it: one that they do not take would leave the URL as it is, and the request would go to whom the caller named.
#[cfg(feature = "reqwest")]
fn is_host(host: &str) -> bool {
    reqwest::Url::parse("http://any/").is_ok_and(|mut url| url.set_host(Some(host)).is_ok())
}

#[cfg(not(feature = "reqwest"))]
fn is_host(_host: &str) -> bool {
    true
}

pin_project! {
    /// The answer of a [`Rewrite`].
    #[derive(Debug)]
    #[project = RewriteProjection]
    #[must_use = "futures do nothing unless polled"]
    pub enum RewriteFuture<F> {
        /// Polls the client's answer.
        #[doc(hidden)]
        Sent { #[pin] inner: F },
        /// Nothing was sent.
        #[doc(hidden)]
        Invalid { why: Invalid },
    }
}

impl<F, Res, E> Future for RewriteFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            RewriteProjection::Sent { inner } => inner.poll(cx).map_err(Into::into),
            RewriteProjection::Invalid { why } => Poll::Ready(Err(why.to_error().into())),
        }
    }
}

/// The address that discovery gave for an endpoint is not one that HTTP can be sent to. Nothing was sent; it is a failure of that
/// endpoint, and another may be tried.
#[derive(Debug)]
pub struct InvalidAddress {
    endpoint: EndpointId,
    reason: &'static str,
    judged: Judged,
}

impl InvalidAddress {
    /// The endpoint.
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the address of endpoint {} cannot be used for HTTP: {}", self.endpoint, self.reason)
    }
}

impl std::error::Error for InvalidAddress {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(address: &str, uri: &str) -> String {
        let (scheme, authority) = parse_address(address).unwrap();
        with_authority(uri.parse().unwrap(), scheme.as_ref(), &authority).to_string()
    }

    #[test]
    fn the_address_replaces_scheme_and_authority_and_nothing_else() {
        assert_eq!(rewritten("a:1", "/p?q=1"), "http://a:1/p?q=1");
        assert_eq!(rewritten("a:1", "https://users/p"), "https://a:1/p");
        assert_eq!(rewritten("https://a:1", "http://users/p"), "https://a:1/p");
        assert_eq!(rewritten("http://a:1/", "https://users"), "http://a:1/");
        assert_eq!(rewritten("[::1]:8", "/"), "http://[::1]:8/");
        assert_eq!(rewritten("a:1", "users:80"), "http://a:1/");
        let uri = with_authority("*".parse().unwrap(), None, &"a:1".parse().unwrap());
        assert_eq!(uri.path(), "*");
    }

    #[test]
    fn what_is_no_address_is_told_and_never_panics() {
        for (address, why) in [
            ("ftp://a:1", "scheme"),
            ("unix:///run/app.sock", "scheme"),
            ("http://user:secret@a:1", "password"),
            ("/run/app.sock", "host:port"),
            ("http://a:1/path", "host:port"),
            ("http://", "host"),
            (":80", "host"),
            ("::1", "host:port"),
            ("users:99999", "port"),
            ("users:808O", "port"),
            ("https://users:", "port"),
            ("[::1]:x", "port"),
        ] {
            let reason = parse_address(address).unwrap_err();
            assert!(reason.contains(why), "{address}: {reason}");
        }
        for address in ["10.0.0.256:8080", "1.2.3.4.5:80"] {
            assert_eq!(parse_address(address).is_err(), cfg!(feature = "reqwest"), "{address}");
        }
    }
}
