//! From an error to what a server tells its own caller: an HTTP status, a gRPC code, and how long to wait.

use std::fmt;
use std::time::Duration;

use tower_mesh_breaker::CircuitOpen;
use tower_mesh_core::error::find;
use tower_mesh_discovery::NoEndpoints;

use crate::error::{Error, ErrorKind};

/// What a server tells its own caller of an [`Error`], or of an error of any of the layers: nothing that a caller may not know.
///
/// | kind | HTTP | gRPC | `Retry-After` |
/// |---|---|---|---|
/// | `ServiceNotFound` | 404 | 12 UNIMPLEMENTED | |
/// | `WrongRequestType` | 500 | 13 INTERNAL | |
/// | `PermissionDenied` | 403 | 7 PERMISSION_DENIED | |
/// | `ShuttingDown`, `NotStarted`, `Unhealthy` | 503 | 14 UNAVAILABLE | |
/// | `NoEndpoints`, `CircuitOpen` | 503 | 14 UNAVAILABLE | when a circuit lets calls through again, if that is known |
/// | `NotReady` | 429 | 8 RESOURCE_EXHAUSTED | |
/// | `Overloaded` | 429 | 8 RESOURCE_EXHAUSTED | |
/// | `DeadlineExceeded`, `AttemptTimedOut` | 504 | 4 DEADLINE_EXCEEDED | |
/// | `Upstream`, and errors that are not of this project | 502 | 14 UNAVAILABLE | |
///
/// What each kind means to the caller is at [`ErrorKind`]. Statuses are those of RFC 9110 §15 and RFC 6585 §4, codes those of gRPC's `statuscodes.md`. A response of a server,
/// whatever its status, is no error and passes as it is.
///
/// With the feature `axum` it is an `IntoResponse`, and so is [`Error`] itself, which is all that a handler needs. Layers around a `Router` answer boxed errors, which axum
/// wants handled:
///
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, error_handling::HandleErrorLayer, routing::get};
/// use tower::ServiceBuilder;
/// use tower_mesh::breaker::{BreakerConfig, BreakerLayer};
/// use tower_mesh::retry::{DeadlineConfig, DeadlineLayer};
/// use tower_mesh::{Answer, http::Classifier};
///
/// let app: Router = Router::new().route("/", get(|| async { "well" })).layer(
///     ServiceBuilder::new()
///         .layer(HandleErrorLayer::new(|error: axum::BoxError| async move { Answer::of(&*error) }))
///         .layer(DeadlineLayer::new(DeadlineConfig::default()))
///         .layer(BreakerLayer::new(BreakerConfig::default(), Classifier::default())),
/// );
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    kind: ErrorKind,
    retry_after: Option<Duration>,
    text: String,
}

impl Answer {
    /// What is told of `error`, wherever in its chain the cause lies.
    pub fn of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Self {
        let ours = find::<Error>(error);
        let kind = ours.map_or_else(|| ErrorKind::of(error), Error::kind);
        let text = ours.map_or_else(|| kind.to_string(), ToString::to_string);
        let open = find::<CircuitOpen>(error).and_then(CircuitOpen::retry_after);
        let none = || find::<NoEndpoints>(error).and_then(NoEndpoints::retry_after);
        let retry_after = match kind {
            ErrorKind::CircuitOpen | ErrorKind::NoEndpoints => open.or_else(none),
            _ => None,
        };
        Self { kind, retry_after, text }
    }

    /// The kind it goes by.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The HTTP status.
    pub fn http_status(&self) -> u16 {
        self.kind.http_status()
    }

    /// The gRPC code.
    pub fn grpc_code(&self) -> i32 {
        self.kind.grpc_code()
    }

    /// How long the caller should wait before it asks again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The HTTP response: status, `Retry-After` in whole seconds, rounded up, and one line of text.
    #[cfg(feature = "http")]
    pub fn to_http<B: From<String>>(&self) -> http::Response<B> {
        let mut response = http::Response::new(format!("{self}\n").into());
        *response.status_mut() =
            http::StatusCode::from_u16(self.http_status()).expect("the table holds statuses");
        let headers = response.headers_mut();
        let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(http::header::CONTENT_TYPE, plain);
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(http::header::RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}

impl ErrorKind {
    /// The HTTP status by which a server tells its caller of it: see [`Answer`].
    pub fn http_status(self) -> u16 {
        match self {
            Self::ServiceNotFound => 404,
            Self::NotReady | Self::Overloaded => 429,
            Self::WrongRequestType => 500,
            Self::PermissionDenied => 403,
            Self::Upstream => 502,
            Self::ShuttingDown
            | Self::NotStarted
            | Self::NoEndpoints
            | Self::CircuitOpen
            | Self::Unhealthy => 503,
            Self::DeadlineExceeded | Self::AttemptTimedOut => 504,
        }
    }

    /// The gRPC code by which a server tells its caller of it: see [`Answer`].
    pub fn grpc_code(self) -> i32 {
        match self {
            Self::DeadlineExceeded | Self::AttemptTimedOut => 4,
            Self::NotReady | Self::Overloaded => 8,
            Self::ServiceNotFound => 12,
            Self::WrongRequestType => 13,
            Self::PermissionDenied => 7,
            Self::ShuttingDown
            | Self::NotStarted
            | Self::NoEndpoints
            | Self::CircuitOpen
            | Self::Unhealthy
            | Self::Upstream => 14,
        }
    }
}

impl Error {
    /// What a server tells its own caller of it.
    pub fn answer(&self) -> Answer {
        Answer::of(self)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(feature = "axum")]
mod axum {
    use axum_core::body::Body;
    use axum_core::response::{IntoResponse, Response};

    use super::{Answer, Error};
    use crate::readiness::Readiness;

    impl IntoResponse for Answer {
        fn into_response(self) -> Response {
            self.to_http::<Body>()
        }
    }

    impl IntoResponse for Error {
        fn into_response(self) -> Response {
            self.answer().into_response()
        }
    }

    /// 200 or 503, and all of it as JSON: for the endpoint that an orchestrator asks.
    impl IntoResponse for Readiness {
        fn into_response(self) -> Response {
            let body = serde_json::to_vec(&self).expect("texts and numbers are JSON");
            let status = if self.ready { 200 } else { 503 };
            let json = [(http::header::CONTENT_TYPE, "application/json")];
            (http::StatusCode::from_u16(status).expect("one of two"), json, body).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_mesh_core::BoxError;
    use tower_mesh_core::classify::Verdict;
    use tower_mesh_core::error::Judged;

    #[test]
    fn every_kind_falls_where_the_table_says() {
        use ErrorKind::*;
        for (kind, http, grpc) in [
            (ServiceNotFound, 404, 12),
            (WrongRequestType, 500, 13),
            (PermissionDenied, 403, 7),
            (ShuttingDown, 503, 14),
            (NotStarted, 503, 14),
            (NoEndpoints, 503, 14),
            (CircuitOpen, 503, 14),
            (Unhealthy, 503, 14),
            (NotReady, 429, 8),
            (Overloaded, 429, 8),
            (DeadlineExceeded, 504, 4),
            (AttemptTimedOut, 504, 4),
            (Upstream, 502, 14),
        ] {
            assert_eq!((kind.http_status(), kind.grpc_code()), (http, grpc), "{kind}");
        }
    }

    #[test]
    fn what_is_foreign_is_a_bad_gateway_and_tells_nothing() {
        let foreign: BoxError = "10.0.0.7: secret".into();
        let answer = Answer::of(&*foreign);
        assert_eq!(
            (answer.http_status(), answer.grpc_code(), &*answer.to_string()),
            (502, 14, "the request failed")
        );
        let inside: BoxError = Error::of_call(foreign, &"users".parse().unwrap(), None).into();
        let wrapped: BoxError = Judged::because(Verdict::IGNORED, inside).into();
        assert_eq!(Answer::of(&*wrapped).to_string(), "service users: the request failed");
    }
}
