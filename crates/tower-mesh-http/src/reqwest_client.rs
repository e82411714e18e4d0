//! reqwest's client, requests and responses.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri;
use http_body::{Body, Frame, SizeHint};
use reqwest::{Request, Response, Url};
use tower_mesh_core::classify::{Guard, Verdict};
use tower_mesh_core::{BoxError, Classify, Replay};
use tower_service::Service;

use crate::authority::{Rewrite, RewriteFuture};
use crate::body::GuardedBody;
use crate::classifier::Classifier;
use crate::policy::error;
use crate::replay::is_idempotent;

/// A request keeps its path, query and scheme, unless the endpoint's address has one; its host and port become the endpoint's.
impl<C> Service<Request> for Rewrite<C>
where
    C: Service<Request>,
    C::Error: Into<BoxError>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = RewriteFuture<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.poll_target(cx)
    }

    fn call(&mut self, mut request: Request) -> RewriteFuture<C::Future> {
        self.bearing.authorize(request.headers_mut());
        match self.target() {
            Ok((client, scheme, authority)) => {
                rewrite(request.url_mut(), scheme.map(uri::Scheme::as_str), authority);
                RewriteFuture::Sent { inner: client.call(request) }
            }
            Err(why) => RewriteFuture::Invalid { why },
        }
    }
}

/// An authority whose host no URL takes is no target: see `parse_address`. That leaves URLs that can have no host at all (`data:`), which go nowhere.
fn rewrite(url: &mut Url, scheme: Option<&str>, authority: &uri::Authority) {
    if let Some(scheme) = scheme {
        let _ = url.set_scheme(scheme);
    }
    let _ = url.set_host(Some(authority.host()));
    let _ = url.set_port(authority.port_u16());
}

/// Which of reqwest's requests can be sent twice: those without a body or with one that is all there. One with a stream is sent once. Idempotent is what
/// [`Classifier`] says.
///
/// A type of its own, so that what a program says of [`Classifier`] means the same whether this feature is on or not.
///
/// ```
/// use tower_mesh_core::Replay;
/// use tower_mesh_http::Reqwest;
/// let client = reqwest::Client::new();
/// let put = client.put("http://users/7").body("all there").build().unwrap();
/// assert!(Reqwest.copy(&put).is_some() && Reqwest.is_idempotent(&put));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Reqwest;

impl Replay<Request> for Reqwest {
    type Sent = Request;

    fn prepare(&self, request: Request) -> Request {
        request
    }

    fn copy(&self, sent: &Request) -> Option<Request> {
        sent.try_clone()
    }

    fn is_idempotent(&self, sent: &Request) -> bool {
        is_idempotent(sent.method(), sent.headers())
    }
}

/// What callers get is an `http::Response` whose body carries the guards; `reqwest::Response::from` makes it one of reqwest's again, guards and all.
impl Classify<Response> for Classifier {
    type Response<G: Guard> = http::Response<GuardedBody<reqwest::Body, G>>;

    fn head(&self, result: Result<&Response, &(dyn Error + 'static)>) -> Verdict {
        match result {
            Ok(response) => self.of_head(response.status(), response.headers()),
            Err(error) => error::verdict(error),
        }
    }

    fn attach<G: Guard>(&self, response: Response, verdict: Verdict, guard: G) -> Self::Response<G> {
        let codes = self.codes_for_end(verdict);
        http::Response::from(response).map(|body| GuardedBody::with_rules(body, verdict, guard, codes))
    }
}

/// With it `reqwest::Response::from(response)` takes what comes out of the layers; the guards go on to the end of the body.
impl<B, G> From<GuardedBody<B, G>> for reqwest::Body
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    G: Guard + Unpin,
{
    fn from(body: GuardedBody<B, G>) -> Self {
        Self::wrap(Alone(Mutex::new(body)))
    }
}

/// A body that only one thread looks at, for a client that wants bodies that several may look at.
struct Alone<B>(Mutex<B>);

impl<B: Body + Unpin> Body for Alone<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner)).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_the_endpoints_and_the_rest_is_the_callers() {
        for (address, scheme, url, is) in [
            ("10.0.0.7:8080", None, "http://users/p?q=1", "http://10.0.0.7:8080/p?q=1"),
            ("[::1]:8", None, "http://users:99/", "http://[::1]:8/"),
            ("a.internal", None, "https://users:99/", "https://a.internal/"),
            ("a:1", Some("https"), "http://users/p#f", "https://a:1/p#f"),
        ] {
            let mut url = Url::parse(url).unwrap();
            rewrite(&mut url, scheme, &address.parse().unwrap());
            assert_eq!(url.as_str(), is);
        }
    }
}
