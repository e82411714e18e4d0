use std::error::Error;
use std::time::SystemTime;

use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body;
use tower_mesh_core::Classify;
use tower_mesh_core::classify::{Guard, Verdict};

use crate::body::GuardedBody;
use crate::policy::{chain, error, grpc, retry_after, status};

/// Judges HTTP and gRPC answers and clients' errors, and says which requests may be sent twice.
///
/// The tables are at [`policy::status`](crate::policy::status::verdict), [`policy::grpc`](crate::policy::grpc::verdict) and
/// [`policy::error`](crate::policy::error::verdict). A gRPC answer is undecided at its head, unless the status is there already, and
/// decided by its trailers; every answer ends with its body: see [`GuardedBody`].
///
/// ```
/// use tower_mesh_core::{Classify, classify::Retry};
/// use tower_mesh_http::Classifier;
///
/// let classifier = Classifier::default();
/// let response = http::Response::builder()
///     .status(503)
///     .header("retry-after", "2")
///     .body(String::new())
///     .unwrap();
/// let verdict = classifier.head(Ok(&response));
/// assert!(verdict.is_failure());
/// assert_eq!(verdict.retry, Retry::IfIdempotent);
/// assert_eq!(verdict.wait.unwrap().as_secs(), 2);
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Classifier {
    ignores_retried: bool,
}

impl Classifier {
    /// Does not honour [`x-mesh-retried`](chain::RETRIED), by which a service says that it has already tried again what failed. By default a failure with that
    /// header is not sent again.
    pub const fn ignoring_retried(mut self) -> Self {
        self.ignores_retried = true;
        self
    }

    /// The verdict on the head of a response, whatever its type.
    pub(crate) fn of_head(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let verdict = Self::of_answer(status, headers);
        if self.ignores_retried { verdict } else { chain::stop(verdict, headers) }
    }

    fn of_answer(status: StatusCode, headers: &HeaderMap) -> Verdict {
        if grpc::is_grpc(headers)
            && let Some(verdict) = grpc::at_head(status, headers)
        {
            return verdict;
        }
        let wait = match headers.get(header::RETRY_AFTER) {
            Some(value) if status::may_ask_to_wait(status) => retry_after::of_header(value, wall_clock),
            _ => None,
        };
        status::verdict(status, wait)
    }
}

impl<B: Body> Classify<Response<B>> for Classifier {
    type Response<G: Guard> = Response<GuardedBody<B, G>>;

    fn head(&self, result: Result<&Response<B>, &(dyn Error + 'static)>) -> Verdict {
        match result {
            Ok(response) => self.of_head(response.status(), response.headers()),
            Err(error) => error::verdict(error),
        }
    }

    fn attach<G: Guard>(&self, response: Response<B>, verdict: Verdict, guard: G) -> Self::Response<G> {
        response.map(|body| GuardedBody::new(body, verdict, guard))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an HTTP date is wall time; it is read only when a server gave one"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tower_mesh_core::classify::{Origin, Outcome};

    fn judge(status: u16, headers: &[(&str, &str)]) -> Verdict {
        let response = headers.iter().fold(Response::builder().status(status), |response, (name, value)| {
            response.header(*name, *value)
        });
        let response = response.body(String::new()).unwrap();
        Classifier::default().head(Ok(&response))
    }

    #[test]
    fn retry_after_is_read_beside_429_and_503_only() {
        let header = &[("retry-after", " 120")];
        assert_eq!(judge(429, header).wait, Some(Duration::from_secs(120)));
        assert_eq!(judge(503, header).wait, Some(Duration::from_secs(120)));
        assert_eq!(judge(200, header).wait, None);
        assert_eq!(judge(502, header).wait, None);
        assert_eq!(judge(503, &[("retry-after", "later")]).wait, None);
        let past = &[("retry-after", "Wed, 01 Jan 2020 00:00:00 GMT")];
        assert_eq!(judge(503, past).wait, Some(Duration::ZERO));
    }

    #[test]
    fn grpc_is_undecided_until_its_status_is_there() {
        let kind = ("content-type", "application/grpc");
        assert_eq!(judge(200, &[kind]).outcome, Outcome::Undecided);
        assert_eq!(judge(200, &[kind, ("grpc-status", "0")]), Verdict::SUCCESS);
        let unavailable = judge(200, &[kind, ("grpc-status", "14")]);
        assert_eq!(unavailable.outcome, Outcome::Failure(Origin::Remote));
        assert!(judge(503, &[kind]).is_failure(), "the transport's own failure is no gRPC answer");
        assert_eq!(
            judge(200, &[("grpc-status", "14")]),
            Verdict::SUCCESS,
            "the header means nothing outside gRPC"
        );
    }
}
