//! Services for generated gRPC clients.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower_mesh_core::error::find;
use tower_mesh_core::{CallContext, Operation, Tick};
use tower_mesh_discovery::PerEndpoint;
use tower_mesh_http::policy::timeout;
use tower_mesh_http::{Channels, Classifier, GrpcEndpoint, ReplayBody};
use tower_service::Service;

use crate::answer::Answer;
use crate::error::{Error, ErrorKind};
use crate::service::{Connected, MeshFuture, MeshService, ServiceHandle};

/// What [`ServiceHandle::grpc`] gives without layers around each endpoint: for the state of an application, or a field.
pub type GrpcService = Grpc<Connected<GrpcEndpoint, Classifier, Classifier>>;

impl<P> ServiceHandle<P> {
    /// The service for a generated client: `GreeterClient::new(mesh.service("greeter")?.grpc(Channels::new()))`.
    ///
    /// Each endpoint has a tonic channel, as `channels` makes them. See [`Grpc`] for what a call is.
    ///
    /// ```no_run
    /// use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    /// use tower_mesh::http::Channels;
    /// # async fn run() -> Result<(), tower_mesh::core::BoxError> {
    /// let mesh = tower_mesh::Mesh::builder().config_path("mesh.toml").build()?;
    /// let mut client = HealthClient::new(mesh.service("greeter")?.grpc(Channels::new()));
    /// mesh.start().await?;
    /// let answer = client.check(HealthCheckRequest::default()).await?;
    /// # Ok(()) }
    /// ```
    pub fn grpc(self, channels: Channels) -> Grpc<Connected<P::Service, Classifier, Classifier>>
    where
        P: PerEndpoint<GrpcEndpoint> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
    {
        self.classify(Classifier::default()).grpc(channels)
    }
}

impl<P> ServiceHandle<P, Classifier> {
    /// The same with a classifier of one's own.
    pub fn grpc(self, channels: Channels) -> Grpc<Connected<P::Service, Classifier, Classifier>>
    where
        P: PerEndpoint<GrpcEndpoint> + Send + Sync + 'static,
        P::Service: Clone + Send + Sync + 'static,
    {
        let channels = crate::credentials::channels(self.part.credentials.as_ref(), channels);
        Grpc { inner: self.replay(Classifier::default()).bound(channels, ()) }
    }
}

/// A service of the mesh as generated gRPC clients want it. Clones are cheap and share everything.
///
/// - It is always ready, and its errors are `tonic::Status`es with the code that [`Answer`] gives, a message that tells no address, and the mesh's [`Error`] in
///   the chain. A status that a layer around an endpoint gave for an error stays what it is.
/// - The operation is the method's full name, `package.Service/Method`, unless the [context](CallContext) or the service names one: the configuration's table
///   `operations` goes by it.
/// - A `grpc-timeout` that the caller set (`tonic::Request::set_timeout`) is the deadline of the whole call, if it is earlier than the configured one. What is left
///   is sent with each attempt. Many servers end a stream by it too: a method that streams for longer wants a longer timeout among `operations`.
/// - gRPC does not say which methods do no harm if they run twice. A call is sent again if it certainly was not processed; otherwise only if
///   `operations` says that the method is `idempotent`. Requests are kept in a [`ReplayBody`], as long as they fit.
///
/// Dropping the response future abandons the call.
#[derive(Clone)]
pub struct Grpc<S> {
    inner: S,
}

impl<S> Grpc<S> {
    /// The service of the mesh.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S> Grpc<MeshService<S>> {
    /// The same service, for calls of this operation, whatever the method.
    pub fn operation(&self, name: &str) -> Self
    where
        S: Clone,
    {
        Self { inner: self.inner.operation(name) }
    }
}

impl<S, Res> Service<Request<tonic::body::Body>> for Grpc<MeshService<S>>
where
    MeshService<S>: Service<
            Request<ReplayBody<tonic::body::Body>>,
            Response = Response<Res>,
            Error = Error,
            Future = MeshFuture<S::Future>,
        >,
    S: Service<Request<ReplayBody<tonic::body::Body>>>,
    MeshFuture<S::Future>: Future<Output = Result<Response<Res>, Error>>,
{
    type Response = Response<Res>;
    type Error = Status;
    type Future = GrpcFuture<MeshFuture<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        // What a generated client is told of readiness becomes UNKNOWN; a service of the mesh has nothing to tell here.
        self.inner.poll_ready(cx).map_err(Status::from)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let call = CallContext::inherit();
        let call = match call.operation() {
            Some(_) => call,
            None => call.with_operation(Operation::named(request.uri().path().trim_start_matches('/'))),
        };
        let mut call = match timeout::of_request(request.headers(), &timeout::TIMEOUT_MS) {
            Some(timeout) => call.with_deadline(clock() + timeout),
            None => call,
        };
        let request = request.map(ReplayBody::new);
        GrpcFuture { inner: call.lend(|| self.inner.call(request)) }
    }
}

/// tokio's, as everywhere.
fn clock() -> Tick {
    Tick::of(tokio::time::Instant::now().into_std())
}

impl<S: fmt::Debug> fmt::Debug for Grpc<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grpc").field(&self.inner).finish()
    }
}

pin_project! {
    /// The response of a [`Grpc`] service. Dropping it abandons the call.
    #[derive(Debug)]
    pub struct GrpcFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, Res> Future for GrpcFuture<F>
where
    F: Future<Output = Result<Res, Error>>,
{
    type Output = Result<Res, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_err(Status::from)
    }
}

/// What a gRPC server tells its own caller of it, and what a generated client's caller gets. The error itself is in the source chain, and is not sent.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = match told(&error) {
            Some(status) => status,
            None => Self::from(error.answer()),
        };
        status.set_source(Arc::new(Cause(error)));
        status
    }
}

/// What something inside has put into gRPC's words already.
fn told(error: &Error) -> Option<Status> {
    if error.kind() != ErrorKind::Upstream {
        return None;
    }
    let inner = find::<Status>(error)?;
    let (code, message, details) = (inner.code(), inner.message(), inner.details().to_vec().into());
    Some(Status::with_details_and_metadata(code, message, details, inner.metadata().clone()))
}

/// The status by which a server tells its caller: the code, and how long to wait before calling again as `grpc-retry-pushback-ms`, if that is known.
///
/// Layers around the services of a tonic server become statuses by it:
///
/// ```
/// use tower::{BoxError, ServiceBuilder};
/// use tower_mesh::Answer;
/// use tower_mesh::breaker::{BreakerConfig, BreakerLayer};
/// use tower_mesh::http::Classifier;
/// let layers = ServiceBuilder::new()
///     .map_err(|error: BoxError| tonic::Status::from(Answer::of(&*error)))
///     .layer(BreakerLayer::new(BreakerConfig::default(), Classifier::default()));
/// let server = tonic::transport::Server::builder().layer(layers);
/// ```
impl From<Answer> for Status {
    fn from(answer: Answer) -> Self {
        let mut status = Self::new(Code::from_i32(answer.grpc_code()), answer.to_string());
        if let Some(wait) = answer.retry_after() {
            let ms = u32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
            status.metadata_mut().insert("grpc-retry-pushback-ms", ms.into());
        }
        status
    }
}

/// The error in a status's chain. A status shows its source with `Debug`, where callers look; the error's own goes on to what only operators may see.
struct Cause(Error);

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.kind())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_mesh_core::BoxError;
    use tower_mesh_core::error::find_in;

    #[test]
    fn every_kind_becomes_its_code_with_a_message_that_tells_no_address() {
        use ErrorKind::*;
        for kind in [
            ServiceNotFound,
            WrongRequestType,
            PermissionDenied,
            ShuttingDown,
            NotStarted,
            NoEndpoints,
            CircuitOpen,
            Unhealthy,
            NotReady,
            DeadlineExceeded,
            AttemptTimedOut,
            Upstream,
        ] {
            let status = Status::from(Error::new(kind, "users", None).because("10.0.0.7: secret"));
            assert_eq!(i32::from(status.code()), kind.grpc_code(), "{kind}");
            if !matches!(kind, ServiceNotFound | WrongRequestType) {
                assert!(!status.to_string().contains("secret"), "{status}");
                assert!(!format!("{status:?}").contains("secret"), "{status:?}");
            }
            let source = std::error::Error::source(&status).unwrap();
            assert_eq!(find_in::<Error>(source).unwrap().kind(), kind);
        }
    }

    #[test]
    fn a_status_from_inside_stays_what_it_is_and_the_channels_timer_is_the_deadline() {
        let of = |error: BoxError| Status::from(Error::of_call(error, &"users".parse().unwrap(), None));
        let status = of(Box::new(Status::unauthenticated("who?")));
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "who?"));
        let expired = of(Box::new(tonic::TimeoutExpired(())));
        assert_eq!(expired.code(), Code::DeadlineExceeded);
    }
}
