//! Asking an endpoint over HTTP whether it is well.

use std::future::poll_fn;
use std::io;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{self, PathAndQuery, Scheme};
use http::{Request, Response};
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::{EndpointHandle, error};

use crate::authority::parse_address;

/// A check that sends `GET path` to the endpoint and looks at the status; see [`HttpProbe`].
///
/// What a path cannot hold (blanks, controls, other letters than ASCII) is percent-encoded, a missing slash is put in front, and what lies beyond
/// [`HttpProbe::MAX_PATH`] bytes is cut off, so that every text is a path.
///
/// ```
/// let probe = tower_mesh_http::probe::get("/healthz").expect(200..=204);
/// assert_eq!(probe.path(), "/healthz");
/// ```
pub fn get(path: impl AsRef<str>) -> HttpProbe {
    HttpProbe { path: total_path(path.as_ref()), expected: 200..=299, headers: HeaderMap::new(), port: None }
}

/// Checks endpoints by a GET over a connection of its own; made by [`get`].
///
/// It opens a TCP connection to the endpoint's `host:port` (without a port: 80), speaks HTTP/1.1 without TLS, and is done when the head of the
/// answer is there. Nothing outlives the check: no task, no connection. It has no time limit of its own; whoever runs it sets one.
///
/// | what happens | says |
/// |---|---|
/// | a status among the expected | healthy; degraded if the answer carries `x-envoy-degraded` |
/// | any other status | unhealthy: "status 503" |
/// | no connection, a reset, no HTTP | unreachable |
///
/// An endpoint whose address begins with `https://` can be checked at a plain port beside it, given by [`port`](HttpProbe::port), and else
/// counts as unreachable. A host *name* is looked up by the runtime's blocking pool, and a lookup cannot be taken back: let discovery give
/// IP addresses.
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpProbe {
    path: PathAndQuery,
    expected: RangeInclusive<u16>,
    headers: HeaderMap,
    port: Option<u16>,
}

impl HttpProbe {
    /// The longest path, in bytes before encoding.
    pub const MAX_PATH: usize = 4096;

    /// The statuses that mean well, the ends in either order. Default 200 to 299.
    pub fn expect(mut self, statuses: RangeInclusive<u16>) -> Self {
        let (start, end) = statuses.into_inner();
        self.expected = start.min(end)..=start.max(end);
        self
    }

    /// Sends a header too, in place of one of the same name; `host` for instance, which otherwise is the endpoint's address.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Asks at this port of the endpoint's host instead of its own.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// What is asked for.
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    fn target(&self, address: &str) -> Result<(uri::Authority, u16), ProbeFailure> {
        let (scheme, authority) = parse_address(address)
            .map_err(|reason| ProbeFailure::unreachable(format!("{address}: {reason}")))?;
        let port = match (self.port, scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) if scheme == Scheme::HTTPS => {
                return Err(ProbeFailure::unreachable("the probe does not speak TLS: give it a plain port"));
            }
            (None, _) => authority.port_u16().unwrap_or(80),
        };
        Ok((authority, port))
    }

    fn request(&self, authority: &uri::Authority, port: u16) -> Request<NoBody> {
        let mut request = Request::new(NoBody);
        *request.uri_mut() = self.path.clone().into();
        let headers = request.headers_mut();
        let host = match self.port {
            Some(_) => format!("{}:{port}", authority.host()),
            None => authority.as_str().to_owned(),
        };
        if let Ok(host) = HeaderValue::try_from(host) {
            headers.insert(header::HOST, host);
        }
        headers.insert(header::USER_AGENT, HeaderValue::from_static("tower-mesh-probe"));
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        request
    }

    fn judge<B>(&self, response: &Response<B>) -> Result<Probed, ProbeFailure> {
        let status = response.status().as_u16();
        if !self.expected.contains(&status) {
            return Err(ProbeFailure::unhealthy(format!("status {status}")));
        }
        if response.headers().contains_key("x-envoy-degraded") {
            return Ok(Probed::Degraded);
        }
        Ok(Probed::Healthy)
    }
}

impl Probe for HttpProbe {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let (authority, port) = self.target(endpoint.endpoint().address())?;
        let host = authority.host().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, port)).await.map_err(|e| unreachable(&e))?;
        let request = self.request(&authority, port);
        let response = send(stream, request).await.map_err(|e| unreachable(&e))?;
        self.judge(&response)
    }
}

/// Sends `request` over `stream` and waits for the head of the answer, driving the connection meanwhile, so that no task has to.
async fn send(
    stream: TcpStream,
    request: Request<NoBody>,
) -> Result<Response<hyper::body::Incoming>, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut response = pin!(sender.send_request(request));
    let (mut connected, mut broken) = (true, None);
    poll_fn(|cx| {
        if connected && let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            connected = false;
            broken = ended.err();
        }
        // A connection may end with the answer it brought, so the answer is looked at last; if there is none, the connection knows better why
        // than the request it left behind.
        response.as_mut().poll(cx).map_err(|error| broken.take().unwrap_or(error))
    })
    .await
}

/// "connection refused" rather than the whole chain, if the operating system said so.
fn unreachable(cause: &(dyn std::error::Error + 'static)) -> ProbeFailure {
    match error::find_in::<io::Error>(cause) {
        Some(io) if io.raw_os_error().is_some() => ProbeFailure::unreachable(io.kind().to_string()),
        Some(io) => ProbeFailure::unreachable(io.to_string()),
        None => ProbeFailure::unreachable(cause.to_string()),
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

/// A request without a body.
struct NoBody;

impl Body for NoBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(0)
    }
}

#[cfg(test)]
mod tests {
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
    fn the_target_is_the_endpoints_own_or_the_port_given() {
        let port = |probe: &HttpProbe, address| probe.target(address).map(|(_, port)| port);
        let probe = get("/");
        assert_eq!(port(&probe, "a:81"), Ok(81));
        assert_eq!(port(&probe, "http://a"), Ok(80));
        assert!(port(&probe, "https://a:443").is_err());
        assert!(port(&probe, "/run/app.sock").is_err());
        let beside = get("/").port(9000);
        assert_eq!(port(&beside, "https://[::1]:443"), Ok(9000));
        let (authority, port) = beside.target("https://[::1]:443").unwrap();
        let request = beside.request(&authority, port);
        assert_eq!(request.headers()["host"], "[::1]:9000");
        assert_eq!(request.headers()["connection"], "close");
    }

    #[test]
    fn the_defaults_are_those_of_the_crate_page() {
        let probe = get("/");
        assert!(probe.headers.is_empty() && probe.port.is_none());
        let page = include_str!("../README.md");
        for row in [
            format!("| `expect` | {:?} |", probe.expected),
            "| `header` | none |".to_owned(),
            "| `port` | the endpoint's own |".to_owned(),
        ] {
            assert!(page.contains(&row), "{row}");
        }
    }

    #[test]
    fn an_expected_range_is_one_whatever_its_order() {
        let (high, low) = (204, 200);
        let probe = get("/").expect(high..=low);
        let status = |status: u16| probe.judge(&Response::builder().status(status).body(()).unwrap());
        assert_eq!(status(202), Ok(Probed::Healthy));
        assert_eq!(status(205), Err(ProbeFailure::unhealthy("status 205")));
    }
}
