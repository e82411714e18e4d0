//! A generated client over a service of the mesh, against real tonic servers.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Status};
use tower::limit::ConcurrencyLimitLayer;
use tower_mesh::breaker::State;
use tower_mesh::core::EndpointHandle;
use tower_mesh::http::Channels;
use tower_mesh::{ErrorKind, GrpcService, Mesh};
use tower_mesh_core::error::find_in;

use crate::teller::story::Ask;
use crate::teller::story::teller_client::TellerClient;
use crate::teller::{Backend, ask, mesh};

const IDEMPOTENT: &str = "[services.teller.operations.\"story.Teller/Tell\"]\nidempotent = true";

fn client(mesh: &Mesh) -> TellerClient<GrpcService> {
    TellerClient::new(mesh.service("teller").unwrap().grpc(Channels::new()))
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn granted(mesh: &Mesh) -> u64 {
    mesh.status().services[0].retry.granted
}

/// The kind of the mesh's error in the chain of a status.
fn kind(status: &Status) -> ErrorKind {
    let source = std::error::Error::source(status).expect("the mesh's error is in the chain");
    find_in::<tower_mesh::Error>(source).expect("it is").kind()
}

#[tokio::test]
async fn every_kind_of_method_goes_through_and_counts_at_the_end_of_its_stream() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mesh = mesh(&[a.address, b.address], "");
    let mut client = client(&mesh);
    mesh.start().await.unwrap();

    for i in 0..20 {
        let told = client.tell(ask(&i.to_string())).await.unwrap().into_inner();
        assert_eq!((told.text, &*told.previous_attempts), (i.to_string(), ""));
    }
    let many = Ask { count: 100, ..ask("x") };
    let told: Vec<_> = client.stream(many).await.unwrap().into_inner().collect().await;
    assert!(told.len() == 100 && told.iter().all(Result::is_ok));
    let asks = ["on", "ce", " upon"].map(ask);
    let told = client.collect(stream::iter(asks.clone())).await.unwrap().into_inner();
    assert_eq!(told.text, "once upon");
    let told = client.converse(stream::iter(asks)).await.unwrap().into_inner();
    let told: Vec<_> = told.map(|told| told.unwrap().text).collect().await;
    assert_eq!(told, ["on", "ce", " upon"]);
    assert!(a.calls() > 0 && b.calls() > 0, "both were used");

    // In the head (there is no message) and in the trailers, and what is the caller's own trouble is no failure of the endpoint.
    let count = || {
        let endpoints = mesh.status().services.remove(0).endpoints;
        let of = |what: fn(&tower_mesh::EndpointStatus) -> u64| endpoints.iter().map(what).sum::<u64>();
        (of(|e| e.succeeded), of(|e| e.failed), of(|e| e.in_flight))
    };
    assert_eq!(count(), (23, 0, 0));
    let status = client.tell(Ask { code: 5, ..ask("") }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "as asked"));
    assert_eq!(count(), (24, 0, 0));
    let status = client.tell(Ask { code: 13, ..ask("") }).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(count(), (24, 1, 0));
    let broken = Ask { count: 2, code: 14, ..ask("x") };
    let mut told = client.stream(broken).await.unwrap().into_inner();
    assert!(told.message().await.unwrap().is_some());
    assert_eq!(count(), (24, 1, 1), "the stream has not ended");
    assert!(told.message().await.unwrap().is_some());
    assert_eq!(told.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(count(), (24, 2, 0));
    assert_eq!(granted(&mesh), 0);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_connected_to_costs_no_call_and_no_retry() {
    let backend = Backend::start("a");
    let mesh = mesh(&[nobody(), backend.address], "");
    let mut client = client(&mesh);
    mesh.start().await.unwrap();
    for _ in 0..100 {
        client.tell(ask("")).await.unwrap();
    }
    assert_eq!((backend.calls(), granted(&mesh)), (100, 0));
    let failed: u64 = mesh.status().services[0].endpoints.iter().map(|endpoint| endpoint.failed).sum();
    assert_eq!(failed, 0, "nothing was sent, so nothing has failed");
    let opened = mesh.circuits().iter().any(|(_, circuit)| circuit.state() != State::Closed);
    assert!(opened, "its circuit keeps it from being asked each time");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_used_again_by_the_same_client() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let address = a.address;
    let mesh =
        mesh(&[a.address, b.address], "breaker.consecutive_failures = 1\nbreaker.reset_timeout = \"100ms\"");
    let mut client = client(&mesh);
    mesh.start().await.unwrap();
    while a.calls() == 0 {
        client.tell(ask("")).await.unwrap();
    }
    drop(a);
    for _ in 0..50 {
        // A call that was on the broken connection may have been acted on; all others go to the other server.
        if let Err(status) = client.tell(ask("")).await {
            assert_eq!(kind(&status), ErrorKind::Upstream, "{status:?}");
        }
    }
    for _ in 0..20 {
        assert_eq!(client.tell(ask("")).await.unwrap().into_inner().by, "b");
    }
    let a = Backend::start_at("a again", address);
    let back = async {
        while a.calls() == 0 {
            client.tell(ask("")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let back = timeout(Duration::from_secs(10), back).await;
    assert!(back.is_ok(), "{:#?}", mesh.status());
}

#[tokio::test]
async fn a_connection_that_was_closed_while_nobody_called_costs_no_call() {
    let backend = Backend::start("a");
    let address = backend.address;
    let mesh = mesh(&[address], "retry.max_attempts = 1");
    let mut client = client(&mesh);
    mesh.start().await.unwrap();
    client.tell(ask("")).await.unwrap();
    drop(backend);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _again = Backend::start_at("again", address);
    assert_eq!(client.tell(ask("")).await.unwrap().into_inner().by, "again");

    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mesh = self::mesh(&[a.address, b.address], "");
    let mut client = self::client(&mesh);
    mesh.start().await.unwrap();
    while a.calls() == 0 || b.calls() == 0 {
        client.tell(ask("")).await.unwrap();
    }
    drop(b);
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..40 {
        client.tell(ask("")).await.unwrap();
    }
    let failed: u64 = mesh.status().services[0].endpoints.iter().map(|endpoint| endpoint.failed).sum();
    assert_eq!((failed, granted(&mesh)), (0, 0), "nothing was sent on the closed connection");
}

#[tokio::test]
async fn unavailable_is_sent_again_only_where_that_does_no_harm_and_the_server_is_told() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let refuses = || Ask { code: 14, only: "a".to_owned(), ..ask("") };
    let once = mesh(&[a.address, b.address], "");
    let mut client = client(&once);
    once.start().await.unwrap();
    let mut failed = 0;
    for _ in 0..40 {
        failed += u32::from(client.tell(refuses()).await.is_err());
    }
    assert!(failed > 0 && a.calls() == u64::from(failed) && granted(&once) == 0, "{failed}");

    let again = mesh(&[a.address, b.address], IDEMPOTENT);
    let mut client = self::client(&again);
    again.start().await.unwrap();
    let mut second = 0;
    for _ in 0..40 {
        let told = client.tell(refuses()).await.unwrap().into_inner();
        assert_eq!(told.by, "b");
        second += u64::from(told.previous_attempts == "1");
        assert!(["", "1"].contains(&&*told.previous_attempts));
    }
    assert!(second > 0 && second == granted(&again), "{second}");

    // A stream of requests is sent once: what it was is gone when the answer's head is there.
    let stream = stream::iter([refuses(), refuses()]);
    let _ = client.collect(stream).await;
}

#[tokio::test]
async fn a_server_that_pushes_back_is_obeyed() {
    let backend = Backend::start("a");
    let mesh = mesh(&[backend.address], &format!("breaker.consecutive_failures = 100\n{IDEMPOTENT}"));
    let mut client = client(&mesh);
    mesh.start().await.unwrap();
    let status = client.tell(Ask { code: 14, ..ask("pushback -1") }).await.unwrap_err();
    assert_eq!((status.code(), backend.calls()), (Code::Unavailable, 1), "not at all");
    let began = Instant::now();
    let status = client.tell(Ask { code: 14, ..ask("pushback 150") }).await.unwrap_err();
    assert_eq!((status.code(), backend.calls()), (Code::Unavailable, 4));
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_deadline_is_told_to_the_server_and_kept_by_the_mesh() {
    let backend = Backend::start("a");
    let mesh = mesh(
        &[backend.address],
        &format!(
            "deadline.timeout = \"20s\"\nbreaker.consecutive_failures = 100\nretry.max_attempts = 10\n{IDEMPOTENT}"
        ),
    );
    let mut client = client(&mesh);
    mesh.start().await.unwrap();

    let told = client.tell(ask("")).await.unwrap().into_inner().timeout;
    let micros: u64 = told.strip_suffix('u').expect(&told).parse().unwrap();
    assert!((15_000_000..=20_000_000).contains(&micros), "{told}");

    let mut request = Request::new(Ask { delay_ms: 10_000, ..ask("") });
    request.set_timeout(Duration::from_millis(200));
    let began = Instant::now();
    let status = client.tell(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(5));

    // It is the time of all attempts together.
    let before = backend.calls();
    let mut request = Request::new(Ask { delay_ms: 200, code: 14, ..ask("") });
    request.set_timeout(Duration::from_millis(300));
    client.tell(request).await.unwrap_err();
    assert_eq!(backend.calls() - before, 2);

    // Whose timer is first, the server's or the mesh's, is chance. A server says CANCELLED when it is its own; much earlier that is somebody else's word.
    let cancelled = |delay_ms| Ask { delay_ms, code: 1, ..ask("") };
    for (delay, code) in [(194, Code::DeadlineExceeded), (50, Code::Cancelled)] {
        let mut request = Request::new(cancelled(delay));
        request.set_timeout(Duration::from_millis(200));
        assert_eq!(client.tell(request).await.unwrap_err().code(), code);
    }
}

/// Every reason for which the mesh has no answer, as far as a call through a generated client can meet it.
#[tokio::test]
async fn every_kind_of_error_has_its_code_at_the_generated_client() {
    let backend = Backend::start("a");
    let slow = || Ask { delay_ms: 10_000, ..ask("") };
    let told = |status: &Status| (status.code(), kind(status), status.message().to_owned());
    let name = "service teller, operation story.Teller/Tell: ";

    let one = mesh(&[backend.address], "discovery.ready_timeout = \"100ms\"");
    let status = client(&one).tell(ask("")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, ErrorKind::NotStarted, format!("{name}not started")));

    one.start().await.unwrap();
    let limited =
        one.service("teller").unwrap().per_endpoint(|_: &EndpointHandle| ConcurrencyLimitLayer::new(1));
    let limited = TellerClient::new(limited.grpc(Channels::new()));
    let (mut first, mut second) = (limited.clone(), limited);
    let (held, status) = tokio::join!(timeout(Duration::from_millis(700), first.tell(slow())), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        second.tell(ask("")).await.unwrap_err()
    });
    assert!(held.is_err());
    assert_eq!((status.code(), kind(&status)), (Code::ResourceExhausted, ErrorKind::NotReady), "{status:?}");

    one.shutdown(Duration::ZERO).await;
    let status = client(&one).tell(ask("")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, ErrorKind::ShuttingDown, format!("{name}shutting down")));

    let two = mesh(&[backend.address], "retry.attempt_timeout = \"100ms\"\nretry.max_attempts = 1");
    two.start().await.unwrap();
    let status = client(&two).tell(slow()).await.unwrap_err();
    let text = format!("{name}no answer in time");
    assert_eq!(told(&status), (Code::DeadlineExceeded, ErrorKind::AttemptTimedOut, text));

    let allow = "[services.teller.allow.\"*\"]\noperations = [\"story.Teller/Stream\"]";
    let three = mesh(&[backend.address], &format!("deadline.timeout = \"100ms\"\n{allow}"));
    three.start().await.unwrap();
    let status = client(&three).tell(ask("")).await.unwrap_err();
    assert_eq!(
        told(&status),
        (Code::PermissionDenied, ErrorKind::PermissionDenied, format!("{name}not allowed"))
    );
    let status = client(&three).stream(slow()).await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::DeadlineExceeded, ErrorKind::DeadlineExceeded));

    let four = mesh(&[nobody()], "");
    four.start().await.unwrap();
    let status = client(&four).tell(ask("")).await.unwrap_err();
    assert_eq!((status.code(), kind(&status)), (Code::Unavailable, ErrorKind::NoEndpoints));
    assert!(!status.to_string().contains("127.0.0.1"), "no address where callers look: {status}");

    // Accepts, and hangs up in the middle of the call.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let five = mesh(&[listener.local_addr().unwrap()], "retry.max_attempts = 1");
    five.start().await.unwrap();
    let mut client = client(&five);
    let (status, ()) = tokio::join!(client.tell(ask("")), async {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(stream);
    });
    let status = status.unwrap_err();
    assert_eq!(told(&status), (Code::Unavailable, ErrorKind::Upstream, format!("{name}the request failed")));
    assert!(!status.to_string().contains("127.0.0.1"), "{status}");
}
