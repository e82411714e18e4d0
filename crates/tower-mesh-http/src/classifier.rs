use std::error::Error;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body;
use tower_mesh_core::classify::{Guard, Verdict};
use tower_mesh_core::{CallContext, Classify, Operation};

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
///
/// Statuses can mean something else to a service, or to one of its operations:
///
/// ```
/// use tower_mesh_core::classify::{Origin, Retry, Verdict};
/// use tower_mesh_http::Classifier;
/// let missing = Verdict::failure(Origin::Remote, Retry::IfIdempotent);
/// let classifier = Classifier::default()
///     .statuses(404..=404, missing)                         // a replica that lags behind
///     .statuses_of("search", 500..=599, Verdict::IGNORED); // known to be shaky, not to open circuits
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Classifier {
    ignores_retried: bool,
    rules: Option<Arc<Vec<Rule>>>,
}

/// Statuses that mean something else.
#[derive(Debug, Clone)]
struct Rule {
    /// None for every operation.
    operation: Option<Operation>,
    statuses: RangeInclusive<u16>,
    verdict: Verdict,
}

impl Classifier {
    /// Does not honour [`x-mesh-retried`](chain::RETRIED), by which a service says that it has already tried again what failed. By default a failure with that
    /// header is not sent again.
    pub const fn ignoring_retried(mut self) -> Self {
        self.ignores_retried = true;
        self
    }

    /// Judges `statuses` by `verdict` instead of by the table, whatever the operation. What is said later goes before what was said earlier, and what is said of one
    /// [operation](Self::statuses_of) before what is said of all. Not for gRPC answers, which are judged by their own status. A `Retry-After` beside 429 and
    /// 503 is still heard, unless `verdict` has a wait of its own.
    pub fn statuses(self, statuses: RangeInclusive<u16>, verdict: Verdict) -> Self {
        self.with_rule(Rule { operation: None, statuses, verdict })
    }

    /// The same for calls of one operation, by the name that [`CallContext::operation`] has. A retry that is outermost, with no deadline
    /// layer and no mesh around it, judges outside of the context and does not see the operation.
    pub fn statuses_of(self, operation: &str, statuses: RangeInclusive<u16>, verdict: Verdict) -> Self {
        self.with_rule(Rule { operation: Some(Operation::named(operation)), statuses, verdict })
    }

    fn with_rule(mut self, rule: Rule) -> Self {
        // In the order in which they are asked: those of an operation first, the latest first.
        let rules = Arc::make_mut(self.rules.get_or_insert_default());
        let general = rules.iter().position(|rule| rule.operation.is_none()).unwrap_or(rules.len());
        rules.insert(if rule.operation.is_some() { 0 } else { general }, rule);
        self
    }

    /// What the user said of `status`.
    fn ruled(&self, status: StatusCode) -> Option<Verdict> {
        let rules = self.rules.as_ref()?;
        let mut fitting = rules.iter().filter(|rule| rule.statuses.contains(&status.as_u16())).peekable();
        fitting.peek()?;
        let operation = CallContext::with(|call| call.operation()).flatten();
        let rule = fitting.find(|rule| rule.operation.is_none() || rule.operation == operation)?;
        Some(rule.verdict)
    }

    /// The verdict on the head of a response, whatever its type.
    pub(crate) fn of_head(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        let verdict = self.of_answer(status, headers);
        if self.ignores_retried { verdict } else { chain::stop(verdict, headers) }
    }

    fn of_answer(&self, status: StatusCode, headers: &HeaderMap) -> Verdict {
        if grpc::is_grpc(headers)
            && let Some(verdict) = grpc::at_head(status, headers)
        {
            return verdict;
        }
        let wait = match headers.get(header::RETRY_AFTER) {
            Some(value) if status::may_ask_to_wait(status) => retry_after::of_header(value, wall_clock),
            _ => None,
        };
        match self.ruled(status) {
            Some(ruled) => ruled.with_wait(ruled.wait.or(wait)),
            None => status::verdict(status, wait),
        }
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
    use tower_mesh_core::classify::{Origin, Outcome, Retry};

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
    fn what_is_said_of_an_operation_goes_first_and_of_two_the_later() {
        let verdict = |retry| Verdict::failure(Origin::Remote, retry);
        let classifier = Classifier::default()
            .statuses_of("search", 404..=404, Verdict::IGNORED)
            .statuses(400..=499, verdict(Retry::Never))
            .statuses(404..=404, verdict(Retry::IfIdempotent));
        let judge = |status: u16, operation: Option<&str>| {
            let response = Response::builder().status(status).header("retry-after", "3");
            let response = response.body(String::new()).unwrap();
            let mut call = CallContext::new();
            if let Some(operation) = operation {
                call = call.with_operation(Operation::named(operation));
            }
            call.lend(|| classifier.head(Ok(&response)))
        };
        assert_eq!(judge(404, Some("search")), Verdict::IGNORED);
        assert_eq!(judge(404, Some("get")), verdict(Retry::IfIdempotent));
        assert_eq!(judge(404, None), verdict(Retry::IfIdempotent));
        assert_eq!(judge(403, Some("search")), verdict(Retry::Never));
        assert_eq!(judge(500, None), verdict(Retry::IfIdempotent), "not spoken of: as the table says");
        let wait = Some(Duration::from_secs(3));
        assert_eq!(judge(429, None), verdict(Retry::Never).with_wait(wait), "the server is still heard");
        assert_eq!(
            classifier.head(Ok(&Response::builder().status(404).body(String::new()).unwrap())),
            verdict(Retry::IfIdempotent)
        );
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
