use http::{HeaderMap, Method, Request};
use tower_mesh_core::Replay;

use crate::classifier::Classifier;
use crate::replay_body::ReplayBody;

/// Request bodies of which there can be another copy: whatever is [`Clone`], and [`ReplayBody`] around a stream.
pub trait CopyBody: Sized {
    /// Another copy, from the first byte; none if there cannot be one.
    fn copy_body(&self) -> Option<Self>;

    /// Whether all of the body is there, so that copies can be sent side by side.
    fn is_complete(&self) -> bool;
}

impl<B: Clone> CopyBody for B {
    fn copy_body(&self) -> Option<Self> {
        Some(self.clone())
    }

    fn is_complete(&self) -> bool {
        true
    }
}

impl<B> CopyBody for ReplayBody<B> {
    fn copy_body(&self) -> Option<Self> {
        self.try_clone()
    }

    fn is_complete(&self) -> bool {
        ReplayBody::is_complete(self)
    }
}

/// The header by which a caller says that the server will recognise a request it has seen before
/// (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Requests whose body can be copied: a clonable one, or a stream in a [`ReplayBody`]. Idempotent are GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 §9.2.2), and whatever carries an
/// `idempotency-key`.
impl<B: CopyBody> Replay<Request<B>> for Classifier {
    type Sent = Request<B>;

    fn prepare(&self, request: Request<B>) -> Request<B> {
        request
    }

    fn copy(&self, sent: &Request<B>) -> Option<Request<B>> {
        let mut copy = Request::new(sent.body().copy_body()?);
        *copy.method_mut() = sent.method().clone();
        *copy.uri_mut() = sent.uri().clone();
        *copy.version_mut() = sent.version();
        copy.headers_mut().clone_from(sent.headers());
        copy.extensions_mut().clone_from(sent.extensions());
        Some(copy)
    }

    fn is_complete(&self, sent: &Request<B>) -> bool {
        sent.body().is_complete()
    }

    fn is_idempotent(&self, sent: &Request<B>) -> bool {
        is_idempotent(sent.method(), sent.headers())
    }
}

pub(crate) fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE => true,
        _ => headers.contains_key(IDEMPOTENCY_KEY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idempotent_by_method_or_by_the_callers_word() {
        let is = |method: &str, key: Option<&str>| {
            let mut request = Request::builder().method(method).body(()).unwrap();
            if let Some(key) = key {
                request.headers_mut().insert(IDEMPOTENCY_KEY, key.parse().unwrap());
            }
            Classifier::default().is_idempotent(&request)
        };
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is(method, None), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "QUERY2"] {
            assert!(!is(method, None), "{method}");
            assert!(is(method, Some("a")), "{method}");
        }
    }
}
