//! A real tonic server of every kind of method, which does what the request says, and can be killed.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::runtime::{Builder, Runtime};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::server::HealthReporter;
use tower::{BoxError, Layer, Service};
use tower_mesh::Mesh;

/// What is made of `proto/story.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, unused_qualifications, clippy::all)]
pub(crate) mod story {
    tonic::include_proto!("story");
}

use story::teller_server::{Teller, TellerServer};
use story::{Ask, Told};

/// A server of its own, on a runtime of its own: dropped, it is killed with all of its connections.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    /// What it says of itself, as the service `story.Teller`.
    pub(crate) health: HealthReporter,
    calls: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

impl Backend {
    pub(crate) fn start(name: &'static str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap())
    }

    pub(crate) fn start_at(name: &'static str, address: SocketAddr) -> Self {
        let calls = Arc::new(AtomicU64::new(0));
        let teller = TellerServer::new(Story { name, calls: calls.clone() });
        let mut backend = Self::serve(address, |server| server, teller);
        backend.calls = calls;
        backend
    }

    /// Any teller, with layers around it.
    pub(crate) fn serve<L, S, ResBody>(
        address: SocketAddr,
        layers: impl FnOnce(Server) -> Server<L>,
        teller: TellerServer<impl Teller>,
    ) -> Self
    where
        L: Layer<Routes, Service = S> + Clone + Send + 'static,
        S: Service<http::Request<tonic::body::Body>, Response = http::Response<ResBody>>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + Send,
        ResBody: http_body::Body<Data = Bytes> + Send + 'static,
        ResBody::Error: Into<BoxError>,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let incoming = {
            let _inside = runtime.enter();
            TcpIncoming::bind(address).unwrap()
        };
        let address = incoming.local_addr().unwrap();
        let (health, told) = tonic_health::server::health_reporter();
        let server = layers(Server::builder()).add_service(teller).add_service(told);
        runtime.spawn(server.serve_with_incoming(incoming));
        Self { address, health, calls: Arc::default(), runtime: Some(runtime) }
    }

    /// How many calls have arrived.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What [`Backend::start`] serves.
pub(crate) fn story(name: &'static str) -> TellerServer<impl Teller> {
    TellerServer::new(Story { name, calls: Arc::default() })
}

struct Story {
    name: &'static str,
    calls: Arc<AtomicU64>,
}

impl Story {
    /// What a call is answered, or the status that it asks for.
    async fn told(&self, metadata: &MetadataMap, ask: Ask) -> Result<Told, Status> {
        tokio::time::sleep(Duration::from_millis(ask.delay_ms.into())).await;
        let text =
            |name| metadata.get(name).map(|text| text.to_str().unwrap().to_owned()).unwrap_or_default();
        match self.status(&ask) {
            Some(status) => Err(status),
            None => Ok(Told {
                text: ask.text,
                by: self.name.to_owned(),
                timeout: text("grpc-timeout"),
                previous_attempts: text("grpc-previous-rpc-attempts"),
            }),
        }
    }

    fn status(&self, ask: &Ask) -> Option<Status> {
        if ask.code == 0 || !(ask.only.is_empty() || ask.only == self.name) {
            return None;
        }
        let mut status = Status::new(Code::from_i32(ask.code), "as asked");
        if let Some(pushback) = ask.text.strip_prefix("pushback ") {
            status.metadata_mut().insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
        }
        Some(status)
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

type Tales = Pin<Box<dyn Stream<Item = Result<Told, Status>> + Send>>;

#[tonic::async_trait]
impl Teller for Story {
    type StreamStream = Tales;
    type ConverseStream = Tales;

    async fn tell(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        self.count();
        let (metadata, _, ask) = request.into_parts();
        self.told(&metadata, ask).await.map(Response::new)
    }

    /// As many messages as asked for, then the status asked for, in the trailers.
    async fn stream(&self, request: Request<Ask>) -> Result<Response<Tales>, Status> {
        self.count();
        let (metadata, _, ask) = request.into_parts();
        let end = self.status(&ask).map(Err);
        let first = Ask { code: 0, ..ask.clone() };
        let told = self.told(&metadata, first).await?;
        let tales = stream::iter(std::iter::repeat_n(told, ask.count as usize).map(Ok).chain(end));
        Ok(Response::new(tales.boxed()))
    }

    async fn collect(&self, request: Request<Streaming<Ask>>) -> Result<Response<Told>, Status> {
        self.count();
        let (metadata, _, mut asks) = request.into_parts();
        let mut all = Ask::default();
        while let Some(ask) = asks.message().await? {
            all = Ask { text: all.text + &ask.text, ..ask };
        }
        self.told(&metadata, all).await.map(Response::new)
    }

    async fn converse(&self, request: Request<Streaming<Ask>>) -> Result<Response<Tales>, Status> {
        self.count();
        let name = self.name;
        let tales = request.into_inner().map(move |ask| {
            let ask = ask?;
            Ok(Told { text: ask.text, by: name.to_owned(), ..Told::default() })
        });
        Ok(Response::new(tales.boxed()))
    }
}

/// A mesh with a service `teller` of these endpoints.
pub(crate) fn mesh(addresses: &[SocketAddr], more: &str) -> Mesh {
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("{:?}", address.to_string())).collect();
    let config = format!(
        "[services.teller]\nendpoints = [{}]\nretry.base_delay = \"1ms\"\nretry.max_delay = \"2ms\"\n\
         discovery.algorithm = \"round_robin\"\n{more}",
        endpoints.join(", ")
    );
    Mesh::builder().config_toml(config).build().unwrap()
}

pub(crate) fn ask(text: &str) -> Ask {
    Ask { text: text.to_owned(), ..Ask::default() }
}
