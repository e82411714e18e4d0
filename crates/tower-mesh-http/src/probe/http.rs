//! The HTTP probe.

use std::ops::RangeInclusive;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{self, PathAndQuery};
use http::{Method, Request, Response, Uri};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};

use super::exchange::{self, Reader};
use super::target::{Place, Target, target_setters};

/// Checks endpoints by a request over a connection of its own; made by [`get`](super::get).
///
/// It connects to the endpoint's `host:port` (without a port: 80, or 443 with TLS), sends one request without a body, and is done when the head of the
/// answer is there, or with [`body_contains`](Self::body_contains) when it has seen enough of the body.
///
/// | what happens | says |
/// |---|---|
/// | a status among the expected | healthy; degraded if the answer carries `x-envoy-degraded` |
/// | any other status | unhealthy: "status 503" |
/// | the body lacks the text that is looked for | unhealthy |
/// | no connection, a reset, no HTTP, a body that breaks off | unreachable |
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpProbe {
    method: Method,
    path: PathAndQuery,
    expected: Vec<RangeInclusive<u16>>,
    headers: HeaderMap,
    text: Option<String>,
    max_body: usize,
    #[cfg(feature = "http2")]
    http2: bool,
    target: Target,
}

impl HttpProbe {
    /// The longest path, in bytes before encoding.
    pub const MAX_PATH: usize = 4096;

    pub(super) fn new(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: total_path(path),
            expected: vec![200..=299],
            headers: HeaderMap::new(),
            text: None,
            max_body: 65_536,
            #[cfg(feature = "http2")]
            http2: false,
            target: Target::default(),
        }
    }

    /// The method. Default GET. An answer to HEAD has no body to look at.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// The statuses that mean well, in place of those before; the ends in either order. Default 200 to 299.
    pub fn expect(mut self, statuses: RangeInclusive<u16>) -> Self {
        self.expected.clear();
        self.and_expect(statuses)
    }

    /// More statuses that mean well.
    pub fn and_expect(mut self, statuses: RangeInclusive<u16>) -> Self {
        let (start, end) = statuses.into_inner();
        self.expected.push(start.min(end)..=start.max(end));
        self
    }

    /// Sends a header too, in place of one of the same name; `host` for instance, which otherwise is where the probe connects to.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Also wants `text` in the first [`max_body`](Self::max_body) bytes of the body. Default: the body is not looked at.
    pub fn body_contains(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// How many bytes of the body are looked at, at most. Default 64 KiB.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Speaks HTTP/2 from the first byte instead of HTTP/1.1, which a server in plain text must expect; with [`tls`](Self::tls), the handshake has to offer
    /// `h2`.
    #[cfg(feature = "http2")]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    target_setters!();

    /// What is asked for.
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    #[cfg(feature = "http2")]
    fn speaks_http2(&self) -> bool {
        self.http2
    }

    #[cfg(not(feature = "http2"))]
    fn speaks_http2(&self) -> bool {
        false
    }

    fn request(&self, place: &Place) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        let http2 = self.speaks_http2();
        *request.uri_mut() = if http2 { self.absolute(place) } else { self.path.clone().into() };
        let headers = request.headers_mut();
        if !http2 && let Ok(host) = HeaderValue::try_from(&place.authority) {
            headers.insert(header::HOST, host);
        }
        headers.insert(header::USER_AGENT, HeaderValue::from_static("tower-mesh-probe"));
        for (name, value) in &self.headers {
            // In HTTP/2 it is the authority, and stands there already.
            if !http2 || name != header::HOST {
                headers.insert(name, value.clone());
            }
        }
        if !http2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        request
    }

    /// The URI of a request in HTTP/2, whose authority is the `host` header if one is set.
    fn absolute(&self, place: &Place) -> Uri {
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = host.and_then(|host| host.parse::<uri::Authority>().ok());
        let authority = authority.or_else(|| place.authority.parse().ok());
        let mut parts = uri::Parts::default();
        parts.scheme = Some(place.scheme.clone());
        parts.authority = authority;
        parts.path_and_query = Some(self.path.clone());
        Uri::from_parts(parts).unwrap_or_else(|_| self.path.clone().into())
    }

    fn judge(&self, response: &Response<()>, body: &Search<'_>) -> Result<Probed, ProbeFailure> {
        let status = response.status().as_u16();
        if !self.expected.iter().any(|range| range.contains(&status)) {
            return Err(ProbeFailure::unhealthy(format!("status {status}")));
        }
        if !body.is_found() {
            return Err(ProbeFailure::unhealthy(body.missing()));
        }
        if response.headers().contains_key("x-envoy-degraded") {
            return Ok(Probed::Degraded);
        }
        Ok(Probed::Healthy)
    }
}

impl Probe for HttpProbe {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let place = self.target.of(endpoint, Some(80))?;
        let stream = self.target.connect(&place).await?;
        let request = self.request(&place);
        let mut body = Search::new(self.text.as_deref().unwrap_or_default().as_bytes(), self.max_body);
        #[cfg(feature = "http2")]
        if self.http2 {
            let response = exchange::http2(stream, request, &mut body).await?;
            return self.judge(&response, &body);
        }
        let response = exchange::http1(stream, request, &mut body).await?;
        self.judge(&response, &body)
    }
}

/// Looks for a text in the beginning of a body, keeping no more than a text may be spread over.
struct Search<'a> {
    text: &'a [u8],
    most: usize,
    seen: usize,
    kept: Vec<u8>,
    found: bool,
}

impl<'a> Search<'a> {
    fn new(text: &'a [u8], most: usize) -> Self {
        Self { text, most, seen: 0, kept: Vec::new(), found: text.is_empty() }
    }

    fn is_found(&self) -> bool {
        self.found
    }

    fn missing(&self) -> String {
        let text = String::from_utf8_lossy(&self.text[..self.text.len().min(64)]);
        format!("{text:?} is not in the first {} bytes of the body", self.seen)
    }
}

impl Reader for Search<'_> {
    fn wants_more(&self) -> bool {
        !self.found && self.seen < self.most
    }

    fn take(&mut self, piece: &[u8]) {
        let piece = &piece[..piece.len().min(self.most - self.seen)];
        self.seen += piece.len();
        self.kept.extend_from_slice(piece);
        self.found = self.kept.windows(self.text.len()).any(|window| window == self.text);
        let unneeded = self.kept.len().saturating_sub(self.text.len() - 1);
        self.kept.drain(..unneeded);
    }
}

/// A path whatever the text.
fn total_path(text: &str) -> PathAndQuery {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut path = String::with_capacity(text.len() + 1);
    if !text.starts_with('/') {
        path.push('/');
    }
    for &byte in text.as_bytes().iter().take(HttpProbe::MAX_PATH) {
        if byte.is_ascii_graphic() && !br##""#<>\^`{|}"##.contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push('%');
            path.push(char::from(HEX[usize::from(byte >> 4)]));
            path.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    PathAndQuery::try_from(path).expect("what a path cannot hold is encoded")
}

#[cfg(test)]
mod tests {
    use super::super::get;
    use super::*;

    #[test]
    fn every_text_is_a_path() {
        assert_eq!(get("/healthz?full=1").path(), "/healthz?full=1");
        assert_eq!(get("healthz").path(), "/healthz");
        assert_eq!(get("").path(), "/");
        assert_eq!(get("/a b#ü%20").path(), "/a%20b%23%C3%BC%20");
        assert!(get("x".repeat(1_000_000)).path().len() <= HttpProbe::MAX_PATH + 1);
        for byte in 0..=char::from(255) as u32 {
            let _ = get(format!("/{}?{}", char::from(byte as u8), char::from(byte as u8)));
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_crate_page() {
        let probe = get("/");
        assert!(probe.headers.is_empty() && probe.text.is_none() && !probe.speaks_http2());
        let page = include_str!("../../README.md");
        for row in [
            format!("| `method` | {} |", probe.method),
            format!("| `expect`, `and_expect` | {:?} |", probe.expected[0]),
            "| `header` | none |".to_owned(),
            "| `body_contains` | none |".to_owned(),
            format!("| `max_body` | {} |", probe.max_body),
            "| `http2` | off |".to_owned(),
            "| `port`, `host` | the endpoint's own |".to_owned(),
            "| `tls` | none |".to_owned(),
        ] {
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn an_expected_range_is_one_whatever_its_order_and_several_are_a_set() {
        let (high, low) = (204, 200);
        let judge = |probe: &HttpProbe, status: u16| {
            probe.judge(&Response::builder().status(status).body(()).unwrap(), &Search::new(b"", 0))
        };
        let probe = get("/").expect(high..=low);
        assert_eq!(judge(&probe, 202), Ok(Probed::Healthy));
        assert_eq!(judge(&probe, 205), Err(ProbeFailure::unhealthy("status 205")));
        let probe = probe.and_expect(418..=418);
        assert_eq!((judge(&probe, 418), judge(&probe, 200)), (Ok(Probed::Healthy), Ok(Probed::Healthy)));
        assert!(judge(&probe, 417).is_err());
    }

    #[test]
    fn a_text_is_found_wherever_the_pieces_break_and_not_beyond_the_bound() {
        let body = b"all services are ready now";
        for size in 1..=body.len() {
            for most in 0..=body.len() + 3 {
                let mut search = Search::new(b"ready", most);
                for piece in body.chunks(size) {
                    if search.wants_more() {
                        search.take(piece);
                    }
                    assert!(search.kept.len() < 5, "no more is kept than a text may be spread over");
                }
                assert_eq!(search.is_found(), most >= 22, "pieces of {size}, {most} at most");
            }
        }
        assert!(!Search::new(b"", 10).wants_more(), "nothing is looked for");
    }
}
