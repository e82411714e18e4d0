use http::{Method, Request};
use tower_mesh_core::Replay;

use crate::classifier::Classifier;

/// The header by which a caller says that the server will recognise a request it has seen before
/// (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Requests whose body can be cloned. Idempotent are GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 §9.2.2), and whatever carries an
/// `idempotency-key`.
impl<B: Clone> Replay<Request<B>> for Classifier {
    type Sent = Request<B>;

    fn prepare(&self, request: Request<B>) -> Request<B> {
        request
    }

    fn copy(&self, sent: &Request<B>) -> Option<Request<B>> {
        Some(sent.clone())
    }

    fn is_idempotent(&self, sent: &Request<B>) -> bool {
        match *sent.method() {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE => {
                true
            }
            _ => sent.headers().contains_key(IDEMPOTENCY_KEY),
        }
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
