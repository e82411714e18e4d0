//! What passes along a chain of services: the time that is left, and that a call was given up.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, pending, poll_fn, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body::{Body, Frame};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_mesh_core::classify::{Guard, Outcome, Retry as MayRetry, Verdict};
use tower_mesh_core::{BoxError, CallContext, Classify, Tick};
use tower_mesh_http::{
    Classifier, IdleBody, IdleTimedOut, IdleTimeoutLayer, IncomingLayer, NoTimeLeft, OutgoingLayer,
};
use tower_mesh_retry::error::{RetriesExhausted, StopReason};
use tower_mesh_retry::{Deadline, DeadlineConfig, DeadlineLayer, Retry, RetryConfig, RetryLayer};

const MS: Duration = Duration::from_millis(1);

fn now() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// Answers with the statuses in turn, and then with the last for ever, after 100 ms each.
#[derive(Clone)]
struct Server {
    seen: Seen,
    statuses: &'static [u16],
    headers: &'static [(&'static str, &'static str)],
}

impl Server {
    fn new(statuses: &'static [u16]) -> Self {
        Self { seen: Seen::default(), statuses, headers: &[] }
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn told(&self, name: &str) -> Vec<Option<String>> {
        let text = |headers: &HeaderMap| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        self.seen.lock().unwrap().iter().map(text).collect()
    }
}

impl tower::Service<Request<String>> for Server {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let call = self.calls();
        self.seen.lock().unwrap().push(request.headers().clone());
        let mut response = Response::builder().status(self.statuses[call.min(self.statuses.len() - 1)]);
        for (name, value) in self.headers {
            response = response.header(*name, *value);
        }
        Box::pin(async move {
            tokio::time::sleep(100 * MS).await;
            Ok(response.body(String::new()).unwrap())
        })
    }
}

type Client = Deadline<Retry<tower_mesh_http::Outgoing<Server>, Classifier>>;

fn client(server: &Server, outgoing: &OutgoingLayer, timeout: Option<Duration>) -> Client {
    let retry = RetryConfig::builder().base_delay(Duration::ZERO).build().unwrap();
    let deadline = DeadlineConfig::builder().timeout(timeout).build().unwrap();
    let retry = RetryLayer::new(retry, Classifier::default());
    DeadlineLayer::new(deadline).layer(retry.layer(outgoing.layer(server.clone())))
}

fn asked(headers: &[(&str, &str)]) -> Request<String> {
    let request =
        headers.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
    request.body(String::new()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_tells_what_is_left_when_it_begins() {
    let server = Server::new(&[502, 502, 200]);
    let second = Some(Duration::from_secs(1));
    let answer = client(&server, &OutgoingLayer::new(), second).oneshot(asked(&[])).await.unwrap();
    assert_eq!(answer.status(), 200);
    let told = |text: &[&str]| text.iter().map(|text| Some((*text).to_owned())).collect::<Vec<_>>();
    assert_eq!(server.told("x-mesh-timeout-ms"), told(&["1000", "900", "800"]));

    let server = Server::new(&[502, 200]);
    let grpc = asked(&[("content-type", "application/grpc")]);
    client(&server, &OutgoingLayer::new(), second).oneshot(grpc).await.unwrap();
    assert_eq!(server.told("grpc-timeout")[0], Some("1000000u".to_owned()));
    assert_eq!(server.told("x-mesh-timeout-ms")[0], None);

    let server = Server::new(&[200]);
    let other = OutgoingLayer::new().header(HeaderName::from_static("x-left"));
    client(&server, &other, second).oneshot(asked(&[("x-left", "30")])).await.unwrap();
    client(&server, &other, None).oneshot(asked(&[])).await.unwrap();
    assert_eq!(
        server.told("x-left"),
        [Some("30".to_owned()), None],
        "less stays, and without a deadline there is none"
    );
}

#[tokio::test(start_paused = true)]
async fn what_has_no_time_left_is_not_sent() {
    let server = Server::new(&[200]);
    let mut owner = CallContext::new().with_deadline(now());
    let call =
        owner.lend(|| tower::Service::call(&mut OutgoingLayer::new().layer(server.clone()), asked(&[])));
    let error = call.await.unwrap_err();
    assert!(error.is::<NoTimeLeft>());
    let verdict =
        tower_mesh_core::classify::judge::<Response<String>, _>(&Classifier::default(), Err(&*error));
    assert_eq!((verdict.outcome, verdict.retry), (Outcome::Refused, MayRetry::Never));
    assert_eq!(server.calls(), 0);
}

/// A server in the middle, whose handler asks `behind` twice, one call after the other.
fn middle(behind: Client) -> impl Fn(Request<String>) -> HandlerFuture + Clone {
    move |_| {
        let behind = behind.clone();
        Box::pin(async move {
            let first = behind.clone().oneshot(asked(&[])).await;
            let second = behind.oneshot(asked(&[])).await;
            let status = match (first, second) {
                (Ok(first), Ok(second)) => first.status().max(second.status()),
                _ => StatusCode::BAD_GATEWAY,
            };
            Ok(Response::builder().status(status).body(String::new()).unwrap())
        })
    }
}

type HandlerFuture = Pin<Box<dyn Future<Output = Result<Response<String>, Infallible>> + Send>>;

#[tokio::test(start_paused = true)]
async fn the_callers_time_bounds_the_calls_of_the_handler() {
    for (given, told) in [
        (&[("x-mesh-timeout-ms", "500")][..], ["450", "350"]),
        (&[("x-mesh-timeout-ms", "400000")], ["9950", "9850"]),
        (&[("x-mesh-timeout-ms", "5000000"), ("content-type", "application/grpc")], ["10000", "10000"]),
        (&[("grpc-timeout", "500m"), ("content-type", "application/grpc")], ["450", "350"]),
        (&[("x-mesh-timeout-ms", "soon")], ["10000", "10000"]),
        (&[], ["10000", "10000"]),
    ] {
        let behind = Server::new(&[200]);
        let own = Some(Duration::from_secs(10));
        let incoming = IncomingLayer::new().margin(50 * MS).max_timeout(Duration::from_secs(10));
        let service = incoming.layer(service_fn(middle(client(&behind, &OutgoingLayer::new(), own))));
        let answer = service.oneshot(asked(given)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(behind.told("x-mesh-timeout-ms"), told.map(|told| Some(told.to_owned())), "{given:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_without_time_runs_and_its_calls_are_refused() {
    let behind = Server::new(&[200]);
    let service = IncomingLayer::new().layer(service_fn(middle(client(
        &behind,
        &OutgoingLayer::new(),
        Some(Duration::from_secs(1)),
    ))));
    assert_eq!(service.oneshot(asked(&[("x-mesh-timeout-ms", "0")])).await.unwrap().status(), 502);
    assert_eq!(behind.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn retries_along_a_chain_do_not_multiply() {
    let behind = Server::new(&[503]);
    let own = Some(Duration::from_secs(10));
    let ask = client(&behind, &OutgoingLayer::new(), own);
    let middle = |marks: bool| {
        let ask = ask.clone();
        let handler = service_fn(move |_: Request<String>| {
            let ask = ask.clone();
            async move {
                let answer =
                    ask.oneshot(asked(&[])).await.map_or(StatusCode::BAD_GATEWAY, |answer| answer.status());
                Ok::<_, Infallible>(Response::builder().status(answer).body(String::new()).unwrap())
            }
        });
        let retry = RetryConfig::builder().base_delay(Duration::ZERO).build().unwrap();
        ServiceBuilder::new()
            .layer(RetryLayer::new(retry, Classifier::default()))
            .layer(IncomingLayer::new().marks(marks))
            .service(handler)
    };
    // Two services, one behind the other, and a caller in front of both: every hop retries.
    let answer = middle(true).oneshot(asked(&[])).await.unwrap();
    assert_eq!((answer.status().as_u16(), behind.calls()), (503, 3), "only the last hop has tried again");
    assert!(answer.headers().contains_key("x-mesh-retried"));
    middle(false).oneshot(asked(&[])).await.unwrap();
    assert_eq!(behind.calls(), 3 + 9, "without the marker");
}

#[tokio::test(start_paused = true)]
async fn what_was_retried_and_then_went_well_is_not_marked() {
    let behind = Server::new(&[503, 200]);
    let own = Some(Duration::from_secs(10));
    let service = IncomingLayer::new().layer(service_fn(middle(client(&behind, &OutgoingLayer::new(), own))));
    let answer = service.oneshot(asked(&[])).await.unwrap();
    assert_eq!((answer.status().as_u16(), behind.calls()), (200, 3));
    assert!(!answer.headers().contains_key("x-mesh-retried"));
}

#[tokio::test(start_paused = true)]
async fn the_marker_is_honoured_on_failures_unless_told_otherwise_and_passed_on() {
    let judge = |status: u16, classifier: &Classifier| {
        let response = Response::builder().status(status).header("x-mesh-retried", "1").body(String::new());
        classifier.head(Ok(&response.unwrap()))
    };
    let plain = Classifier::default();
    assert_eq!(judge(503, &plain).retry, MayRetry::Forbidden);
    assert!(judge(503, &plain).is_failure(), "it counts as what it is");
    assert_eq!(judge(503, &plain.clone().ignoring_retried()).retry, MayRetry::IfIdempotent);
    assert_eq!(judge(200, &plain), Verdict::SUCCESS);

    // A failure that is forbidden to be sent again is told onward, though this service has tried only once.
    let behind = Server { headers: &[("x-mesh-retried", "1")], ..Server::new(&[503]) };
    let own = Some(Duration::from_secs(10));
    let service = IncomingLayer::new().layer(service_fn(middle(client(&behind, &OutgoingLayer::new(), own))));
    let answer = service.oneshot(asked(&[])).await.unwrap();
    assert_eq!(behind.calls(), 2, "once for each of the handler's two calls");
    assert!(answer.headers().contains_key("x-mesh-retried"));
}

#[tokio::test]
async fn it_is_a_layer_for_axum() {
    async fn handler() -> String {
        let deadline = CallContext::inherit().deadline();
        deadline.is_some().to_string()
    }
    let app: Router = Router::new().route("/", get(handler)).layer(IncomingLayer::new());
    for (headers, known) in [(&[("x-mesh-timeout-ms", "500")][..], "true"), (&[], "false")] {
        let request = asked(headers).map(axum::body::Body::from);
        let body = app.clone().oneshot(request).await.unwrap().into_body();
        assert_eq!(axum::body::to_bytes(body, 100).await.unwrap(), known);
    }
}

/// A body that gives each frame after the wait before it.
struct Paced(VecDeque<Duration>, Option<Pin<Box<tokio::time::Sleep>>>);

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(&wait) = self.0.front() else { return Poll::Ready(None) };
        if !wait.is_zero() {
            let sleep = self.1.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            std::task::ready!(sleep.as_mut().poll(cx));
        }
        self.0.pop_front();
        self.1 = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

fn paced(waits: &[u32]) -> Paced {
    Paced(waits.iter().map(|&wait| wait * MS).collect(), None)
}

async fn next<B: Body + Unpin>(body: &mut B) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

#[tokio::test(start_paused = true)]
async fn a_body_may_be_long_but_not_silent() {
    let client =
        service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(paced(&[90, 0, 90, 90, 200])))));
    let response = IdleTimeoutLayer::new(100 * MS).layer(client).oneshot(Request::new(())).await.unwrap();
    let mut body = Box::pin(response.into_body());
    for _ in 0..4 {
        assert!(next(&mut body).await.unwrap().is_ok());
        // A reader that takes its time is not the server's silence.
        tokio::time::advance(500 * MS).await;
    }
    let start = now();
    let error = next(&mut body).await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref::<IdleTimedOut>().unwrap().timeout(), 100 * MS);
    assert_eq!(now().since(start), 100 * MS);
    assert!(next(&mut body).await.is_none() && body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn silence_in_a_body_is_a_failure_to_those_who_count() {
    struct Tell(Arc<Mutex<Option<Verdict>>>);
    impl Guard for Tell {
        fn finish(self, verdict: Verdict) {
            *self.0.lock().unwrap() = Some(verdict);
        }
    }
    let told = Arc::new(Mutex::new(None));
    let response = Response::new(IdleBody::new(paced(&[1000]), 100 * MS));
    let guarded = Classifier::default().attach(response, Verdict::SUCCESS, Tell(told.clone()));
    let mut body = Box::pin(guarded.into_body());
    assert!(next(&mut body).await.unwrap().is_err());
    assert!(told.lock().unwrap().unwrap().is_failure());
}

#[test]
fn a_body_that_is_there_arms_no_timer() {
    // Outside a runtime a timer cannot be armed.
    let mut body = Box::pin(IdleBody::new(paced(&[0, 0]), 100 * MS));
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    assert!(matches!(body.as_mut().poll_frame(cx), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(body.as_mut().poll_frame(cx), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(body.as_mut().poll_frame(cx), Poll::Ready(None)));
}

#[tokio::test(start_paused = true)]
async fn grpc_pushback_of_no_stops_and_is_told() {
    let behind = service_fn(|_: Request<String>| -> Ready<Result<_, BoxError>> {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "14")
            .header("grpc-retry-pushback-ms", "-1");
        ready(Ok(response.body(String::new()).unwrap()))
    });
    let layer = RetryLayer::new(RetryConfig::default(), Classifier::default());
    let answer = layer.layer(behind).oneshot(asked(&[])).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "14", "a response is given as it is");

    let forbidden = service_fn(|_: Request<String>| async {
        let verdict = Verdict {
            retry: MayRetry::Forbidden,
            ..Verdict::failure(tower_mesh_core::classify::Origin::Remote, MayRetry::Never)
        };
        let error: BoxError = tower_mesh_core::error::Judged::because(verdict, "no more").into();
        if verdict.is_failure() { Err(error) } else { pending::<Result<Response<String>, BoxError>>().await }
    });
    let error = layer.layer(forbidden).oneshot(asked(&[])).await.unwrap_err();
    let exhausted = error.downcast_ref::<RetriesExhausted>().unwrap();
    assert_eq!((exhausted.attempts(), exhausted.reason()), (1, StopReason::Pushback));
}
