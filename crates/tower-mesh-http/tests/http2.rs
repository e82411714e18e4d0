//! What an HTTP/2 server says of requests it did not process.
#![cfg(feature = "http2")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tower_mesh_core::classify::{Origin, Outcome, Retry, Verdict, judge};
use tower_mesh_http::Classifier;

enum Server {
    /// Answers the stream by this reset.
    Resets(Reason),
    /// Takes the stream, then says that it is going away, this stream included in what it has seen, and hangs up.
    GoesAway(Reason),
    /// Takes the stream and hangs up.
    HangsUp,
}

/// The verdict on a POST to a server that behaves like this.
async fn verdict(server: Server) -> Verdict {
    let (near, far) = tokio::io::duplex(65_536);
    let serve = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        match server {
            Server::Resets(reason) => {
                respond.send_reset(reason);
                while connection.accept().await.is_some() {}
            }
            Server::GoesAway(reason) => {
                connection.abrupt_shutdown(reason);
                while connection.accept().await.is_some() {}
            }
            Server::HangsUp => {}
        }
    };
    let call = async {
        let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(near),
        )
        .await
        .unwrap();
        let request = Request::post("http://a/").body(Empty::new()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        let result = sender.send_request(request).await;
        let error: tower_mesh_core::BoxError = result.unwrap_err().into();
        judge::<Response<hyper::body::Incoming>, _>(&Classifier::default(), Err(&*error))
    };
    tokio::select! {
        verdict = call => verdict,
        () = async { serve.await; std::future::pending().await } => unreachable!(),
    }
}

#[tokio::test]
async fn a_refused_stream_was_not_processed_and_other_ends_may_have_been() {
    let failure = Outcome::Failure(Origin::Local);
    for (i, (server, retry)) in [
        (Server::Resets(Reason::REFUSED_STREAM), Retry::NotProcessed),
        (Server::Resets(Reason::INTERNAL_ERROR), Retry::IfIdempotent),
        (Server::GoesAway(Reason::INTERNAL_ERROR), Retry::IfIdempotent),
        (Server::GoesAway(Reason::NO_ERROR), Retry::IfIdempotent),
        (Server::HangsUp, Retry::IfIdempotent),
    ]
    .into_iter()
    .enumerate()
    {
        let verdict = verdict(server).await;
        assert_eq!((verdict.outcome, verdict.retry), (failure, retry), "case {i}");
    }
}
