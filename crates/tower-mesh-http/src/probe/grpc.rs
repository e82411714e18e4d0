//! The gRPC probe.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::probe::{Probe, ProbeFailure, ProbeStream, Probed};

use super::connection::{failed, over};
use super::target::{Place, Secured, Target, target_setters};
use crate::policy::grpc::is_grpc;
use crate::policy::grpc_health;

/// Checks endpoints by gRPC's health protocol, `grpc.health.v1`, over a connection of its own; made by [`grpc`](super::grpc).
///
/// It asks again and again (`Check`), or with [`watching`](Self::watching) keeps a stream open on which the server tells every change (`Watch`). What the
/// answers mean is told at [`policy::grpc_health`](crate::policy::grpc_health); a server that does not speak the protocol counts as serving. A stream that
/// breaks takes the endpoint out until another has said that it serves.
#[derive(Debug, Clone)]
#[must_use]
pub struct GrpcProbe {
    service: String,
    watches: bool,
    target: Target,
}

impl GrpcProbe {
    /// The longest name of a service, in bytes.
    pub const MAX_SERVICE: usize = 4096;
    /// How often a connection that is watched is asked for a sign of life.
    pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
    /// How long that sign may take; then the connection is given up.
    pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn new(service: &str) -> Self {
        let ends = (0..=Self::MAX_SERVICE.min(service.len())).rev();
        let end = ends.into_iter().find(|&end| service.is_char_boundary(end)).unwrap_or(0);
        Self { service: service[..end].to_owned(), watches: false, target: Target::default() }
    }

    /// Keeps a stream open instead of asking again and again. Default: asks.
    ///
    /// One connection stays open for each endpoint; it is asked for a sign of life every [`KEEP_ALIVE`](Self::KEEP_ALIVE).
    pub fn watching(mut self) -> Self {
        self.watches = true;
        self
    }

    target_setters!();

    /// The service that is asked about; empty for the server as a whole.
    pub fn service(&self) -> &str {
        &self.service
    }

    async fn open(&self, place: &Place, method: &str) -> Result<Session, ProbeFailure> {
        let request = self.request(place, method)?;
        let message = Bytes::from(grpc_health::request(&self.service));
        let stream = self.target.connect(place).await?;
        let opened = async {
            let (sender, mut connection) = h2::client::handshake(stream).await?;
            let pings = connection.ping_pong();
            let asking = async {
                let mut sender = sender.ready().await?;
                let (answer, mut sent) = sender.send_request(request, false)?;
                sent.send_data(message, true)?;
                let (head, body) = answer.await?.into_parts();
                let answer = Answer { status: head.status, head: head.headers, body, received: Vec::new() };
                Ok((sender, answer))
            };
            let (sender, answer) = over(&mut connection, asking).await?;
            Ok(Session { _sender: sender, connection, pings, answer: Some(answer) })
        };
        opened.await.map_err(|error: h2::Error| failed(&error))
    }

    fn request(&self, place: &Place, method: &str) -> Result<Request<()>, ProbeFailure> {
        let uri = format!("{}://{}/grpc.health.v1.Health/{method}", place.scheme, place.authority);
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .header(header::TE, HeaderValue::from_static("trailers"))
            .header(header::USER_AGENT, HeaderValue::from_static("tower-mesh-probe"))
            .body(());
        request.map_err(|error| ProbeFailure::unreachable(error.to_string()))
    }
}

impl Probe for GrpcProbe {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        let place = self.target.of(endpoint, Some(80))?;
        match self.open(&place, "Check").await?.next().await {
            Said::Message(said) | Said::Ended(said) => said,
        }
    }

    fn watch(&self, endpoint: &EndpointHandle) -> Option<ProbeStream> {
        if !self.watches {
            return None;
        }
        let place = self.target.of(endpoint, Some(80));
        let begin = Watching::Begin(self.clone(), place);
        Some(stream::unfold(begin, Watching::next).boxed())
    }
}

/// Where a watch stands.
enum Watching {
    Begin(GrpcProbe, Result<Place, ProbeFailure>),
    Open(Box<Session>),
    Over,
}

impl Watching {
    async fn next(self) -> Option<(Result<Probed, ProbeFailure>, Self)> {
        let opened = match self {
            Self::Begin(probe, place) => match place {
                Ok(place) => probe.open(&place, "Watch").await.map(Box::new),
                Err(failure) => Err(failure),
            },
            Self::Open(session) => Ok(session),
            Self::Over => return None,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(failure) => return Some((Err(failure), Self::Over)),
        };
        match session.next().await {
            Said::Message(said) => Some((said, Self::Open(session))),
            // A server that does not speak the protocol serves as long as the connection lasts.
            Said::Ended(Ok(said)) => Some((Ok(said), Self::Open(session))),
            Said::Ended(Err(failure)) => Some((Err(failure), Self::Over)),
        }
    }
}

/// A connection with one call on it.
struct Session {
    /// Kept, because a connection that nobody can send on any more ends itself.
    _sender: SendRequest<Bytes>,
    connection: Connection<Box<dyn Secured>, Bytes>,
    pings: Option<PingPong>,
    /// None when it has ended.
    answer: Option<Answer>,
}

struct Answer {
    status: StatusCode,
    head: HeaderMap,
    body: RecvStream,
    received: Vec<u8>,
}

enum Said {
    Message(Result<Probed, ProbeFailure>),
    Ended(Result<Probed, ProbeFailure>),
}

impl Session {
    /// What is said next; after the end of the answer, that the connection is gone.
    async fn next(&mut self) -> Said {
        let Self { connection, pings, answer, .. } = self;
        let said = async {
            match answer {
                Some(answer) => over(connection, answer.next()).await,
                None => connection.await.map(|()| {
                    Said::Ended(Err(ProbeFailure::unreachable("the server closed the connection")))
                }),
            }
        };
        let said = match select(pin!(said), pin!(silence(pings.as_mut()))).await {
            Either::Left((Ok(said), _)) => said,
            Either::Left((Err(error), _)) => Said::Ended(Err(failed(&error))),
            Either::Right((failure, _)) => Said::Ended(Err(failure)),
        };
        if matches!(said, Said::Ended(_)) {
            self.answer = None;
        }
        said
    }
}

impl Answer {
    async fn next(&mut self) -> Result<Said, h2::Error> {
        if !self.status.is_success() || !is_grpc(&self.head) {
            return Ok(Said::Ended(grpc_health::ended(self.status, &self.head)));
        }
        loop {
            match grpc_health::next_message(&mut self.received) {
                Ok(Some(message)) => return Ok(Said::Message(grpc_health::answer(&message))),
                Ok(None) => {}
                Err(no_answer) => return Ok(Said::Ended(Err(no_answer))),
            }
            let Some(piece) = self.body.data().await else { break };
            let piece = piece?;
            self.received.extend_from_slice(&piece);
            self.body.flow_control().release_capacity(piece.len())?;
        }
        let trailers = self.body.trailers().await?;
        let fields = trailers.filter(|fields| fields.contains_key("grpc-status"));
        Ok(Said::Ended(grpc_health::ended(self.status, fields.as_ref().unwrap_or(&self.head))))
    }
}

/// Ends when the server gives no sign of life.
async fn silence(pings: Option<&mut PingPong>) -> ProbeFailure {
    let Some(pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(GrpcProbe::KEEP_ALIVE).await;
        let pong = tokio::time::timeout(GrpcProbe::KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque()));
        match pong.await {
            Ok(Ok(_pong)) => {}
            // The connection itself says why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_elapsed) => return ProbeFailure::unreachable("no sign of life on the connection"),
        }
    }
}
