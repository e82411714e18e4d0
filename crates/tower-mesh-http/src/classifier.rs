use std::error::Error;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body;
use tower_mesh_core::classify::{Guard, Outcome, Verdict};
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
    kind: Kind,
    statuses: RangeInclusive<u16>,
    verdict: Verdict,
}

/// Whose statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Grpc,
}

/// The rules for the code of one gRPC answer, which comes with its trailers.
#[derive(Debug, Clone)]
pub(crate) struct Codes {
    rules: Arc<Vec<Rule>>,
    operation: Option<Operation>,
}

impl Codes {
    /// What the user said of the code in `fields`; none if there is no code, or nothing was said of it.
    pub(crate) fn ruled(&self, fields: &HeaderMap) -> Option<Verdict> {
        let code = u16::try_from(grpc::code_in(fields)?).ok()?;
        let verdict = rule(&self.rules, Kind::Grpc, code, || self.operation)?;
        Some(grpc::heard(verdict, grpc::pushback(fields)))
    }
}

/// The first rule for such a status. The operation is asked for only if there is one.
fn rule(
    rules: &[Rule],
    kind: Kind,
    status: u16,
    operation: impl FnOnce() -> Option<Operation>,
) -> Option<Verdict> {
    let fits = |rule: &&Rule| rule.kind == kind && rule.statuses.contains(&status);
    let mut fitting = rules.iter().filter(fits).peekable();
    fitting.peek()?;
    let operation = operation();
    let rule = fitting.find(|rule| rule.operation.is_none() || rule.operation == operation)?;
    Some(rule.verdict)
}

fn operation_now() -> Option<Operation> {
    CallContext::with(|call| call.operation()).flatten()
}

impl Classifier {
    /// Does not honour [`x-mesh-retried`](chain::RETRIED), by which a service says that it has already tried again what failed. By default a failure with that
    /// header is not sent again.
    pub const fn ignoring_retried(mut self) -> Self {
        self.ignores_retried = true;
        self
    }

    /// Judges `statuses` by `verdict` instead of by the table, whatever the operation. What is said later goes before what was said earlier, and what is said of one
    /// [operation](Self::statuses_of) before what is said of all. Not for gRPC answers, which are judged by their [codes](Self::codes). A `Retry-After` beside 429 and
    /// 503 is still heard, unless `verdict` has a wait of its own.
    pub fn statuses(self, statuses: RangeInclusive<u16>, verdict: Verdict) -> Self {
        self.with_rule(Rule { operation: None, kind: Kind::Http, statuses, verdict })
    }

    /// Judges gRPC answers with these codes by `verdict` instead of by the table, whatever the operation; in the same order as [`statuses`](Self::statuses). A
    /// server's pushback is still heard.
    pub fn codes(self, codes: RangeInclusive<u16>, verdict: Verdict) -> Self {
        self.with_rule(Rule { operation: None, kind: Kind::Grpc, statuses: codes, verdict })
    }

    /// The same for calls of one operation: see [`statuses_of`](Self::statuses_of).
    pub fn codes_of(self, operation: &str, codes: RangeInclusive<u16>, verdict: Verdict) -> Self {
        let operation = Some(Operation::named(operation));
        self.with_rule(Rule { operation, kind: Kind::Grpc, statuses: codes, verdict })
    }

    /// The same for calls of one operation, by the name that [`CallContext::operation`] has. A retry that is outermost, with no deadline
    /// layer and no mesh around it, judges outside of the context and does not see the operation.
    pub fn statuses_of(self, operation: &str, statuses: RangeInclusive<u16>, verdict: Verdict) -> Self {
        let operation = Some(Operation::named(operation));
        self.with_rule(Rule { operation, kind: Kind::Http, statuses, verdict })
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
        rule(self.rules.as_ref()?, Kind::Http, status.as_u16(), operation_now)
    }

    /// What the user said of gRPC's codes, if anything; for the operation of the call whose answer is being judged.
    pub(crate) fn codes_for_end(&self, head: Verdict) -> Option<Codes> {
        let rules = self.rules.as_ref().filter(|_| head.outcome == Outcome::Undecided)?;
        let any = rules.iter().any(|rule| rule.kind == Kind::Grpc);
        any.then(|| Codes { rules: rules.clone(), operation: operation_now() })
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
            // An answer without a message has its code in its head.
            let codes =
                self.rules.as_ref().map(|rules| Codes { rules: rules.clone(), operation: operation_now() });
            return codes.and_then(|codes| codes.ruled(headers)).unwrap_or(verdict);
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
        response.map(|body| GuardedBody::with_rules(body, verdict, guard, self.codes_for_end(verdict)))
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
    use std::sync::OnceLock;
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

    #[tokio::test]
    async fn a_grpc_code_can_mean_something_else_in_the_head_and_in_the_trailers() {
        use http_body_util::{BodyExt as _, Full, combinators::WithTrailers};

        struct Told(Arc<OnceLock<Verdict>>);
        impl Guard for Told {
            fn finish(self, verdict: Verdict) {
                self.0.set(verdict).expect("told once");
            }
        }
        let missing = Verdict::failure(Origin::Remote, Retry::IfIdempotent);
        let classifier =
            Classifier::default().codes(5..=5, missing).codes_of("find", 5..=5, Verdict::SUCCESS);
        let head = |fields: &[(&str, &str)]| {
            let response = Response::builder().header("content-type", "application/grpc");
            fields.iter().fold(response, |response, (name, value)| response.header(*name, *value))
        };
        let as_find = |run: &mut dyn FnMut() -> Verdict| {
            CallContext::new().with_operation(Operation::named("find")).lend(run)
        };
        let only = head(&[("grpc-status", "5")]).body(String::new()).unwrap();
        assert_eq!(classifier.head(Ok(&only)), missing);
        assert_eq!(as_find(&mut || classifier.head(Ok(&only))), Verdict::SUCCESS);
        let pushed =
            head(&[("grpc-status", "5"), ("grpc-retry-pushback-ms", "7")]).body(String::new()).unwrap();
        assert_eq!(
            classifier.head(Ok(&pushed)).wait,
            Some(Duration::from_millis(7)),
            "a server is still heard"
        );

        for (find, code, expected) in
            [(false, "5", missing), (true, "5", Verdict::SUCCESS), (false, "0", Verdict::SUCCESS)]
        {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
            let body =
                Full::new(bytes::Bytes::from("a")).with_trailers(std::future::ready(Some(Ok(trailers))));
            let response: Response<WithTrailers<_, _>> = head(&[]).body(body).unwrap();
            let told = Arc::new(OnceLock::new());
            let mut run = || {
                let verdict = classifier.head(Ok(&response));
                assert_eq!(verdict.outcome, Outcome::Undecided);
                verdict
            };
            let verdict = if find { as_find(&mut run) } else { run() };
            let mut response = Some(response);
            let mut attach = || classifier.attach(response.take().unwrap(), verdict, Told(told.clone()));
            let answer = if find {
                CallContext::new().with_operation(Operation::named("find")).lend(attach)
            } else {
                attach()
            };
            answer.into_body().collect().await.unwrap();
            assert_eq!(told.get(), Some(&expected), "{find} {code}");
        }
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
