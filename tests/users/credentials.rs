//! A token for backends arrives with every call, and nowhere else.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};
use tower_mesh::core::EndpointHandle;
use tower_mesh::http::Channels;
use tower_mesh::http::credentials::{BearerLayer, BearerToken};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::teller::story::teller_client::TellerClient;
use crate::teller::story::teller_server::{Teller, TellerServer};
use crate::teller::story::{Ask, Told};
use crate::teller::{Backend, mesh};

/// Writes down everything that is logged, at every level and by everybody.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    /// The one of the process: tests may share it.
    fn global() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let log = Self::default();
            tracing::subscriber::set_global_default(log.clone()).unwrap();
            log
        });
        log.clone()
    }

    fn holds(&self, text: &str) -> bool {
        self.0.lock().unwrap().contains(text)
    }

    /// Neither in it nor in what else was `shown` is any of these.
    fn hides(&self, mut shown: String, secrets: [&str; 2]) {
        shown.push_str(&self.0.lock().unwrap());
        assert!(shown.contains("a new bearer token") && shown.contains("h2"), "the log was written down");
        for secret in secrets {
            let at = shown.find(secret).map(|at| &shown[at.saturating_sub(200)..at]);
            assert!(at.is_none(), "{at:?}");
        }
    }
}

/// Waits until it is so, for ten seconds at most.
async fn eventually(mut is: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waited).await.unwrap();
}

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0.lock().unwrap(), "{field}={value:?} ");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
        let _ = writeln!(self.0.lock().unwrap(), "{}", event.metadata().target());
    }

    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Answers with how the caller was authorized, unless it is asked for a status.
struct Doorkeeper;

#[tonic::async_trait]
impl Teller for Doorkeeper {
    type StreamStream = stream::Empty<Result<Told, Status>>;
    type ConverseStream = stream::Empty<Result<Told, Status>>;

    async fn tell(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let metadata = request.metadata().get("authorization");
        let text = metadata.map(|text| text.to_str().unwrap().to_owned()).unwrap_or_default();
        match request.get_ref().code {
            0 => Ok(Response::new(Told { text, ..Told::default() })),
            code => Err(Status::new(code.into(), "no")),
        }
    }

    async fn stream(&self, _: Request<Ask>) -> Result<Response<Self::StreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn collect(&self, _: Request<Streaming<Ask>>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn converse(&self, _: Request<Streaming<Ask>>) -> Result<Response<Self::ConverseStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test]
async fn the_token_of_the_moment_arrives_and_is_told_to_nobody_else() {
    const FIRST: &str = "Zmlyc3Qtc2VjcmV0";
    const SECOND: &str = "c2Vjb25kLXNlY3JldA";
    let log = Log::global();

    let path = std::env::temp_dir().join(format!("tower-mesh-token-{}", std::process::id()));
    std::fs::write(&path, format!("{FIRST}\n")).unwrap();
    let token = BearerToken::from_file(&path).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
    let _watching = tokio::task::spawn(token.watch(Duration::from_millis(10)));

    let server = TellerServer::new(Doorkeeper);
    let backend = Backend::serve("127.0.0.1:0".parse().unwrap(), |server| server, server);
    // Nobody has ever listened there: a server that is just being killed may still take a call, which is then not sent again.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mesh = mesh(&[backend.address, gone], "");
    let layer = BearerLayer::new(token.clone());
    let service = mesh.service("teller").unwrap().per_endpoint({
        let layer = layer.clone();
        move |_: &EndpointHandle| layer.clone()
    });
    let service = service.grpc(Channels::new());
    let mut shown = format!("{service:?} {layer:?} {token:?}");
    let mut client = TellerClient::new(service);
    mesh.start().await.unwrap();

    let tell = |code| Ask { code, ..Ask::default() };
    let told = client.tell(tell(0)).await.unwrap().into_inner();
    assert_eq!(told.text, format!("Bearer {FIRST}"));
    for code in [14, 16, 13] {
        let status = client.tell(tell(code)).await.unwrap_err();
        let _ = write!(shown, "{status} {status:?}");
    }
    let mut own = Request::new(tell(0));
    own.metadata_mut().insert("authorization", "Basic eA==".parse().unwrap());
    assert_eq!(client.tell(own).await.unwrap().into_inner().text, "Basic eA==", "the caller's own is kept");

    // What is no token changes nothing, and is not shown either; another token is sent from then on.
    std::fs::write(&path, format!("{FIRST} {SECOND}")).unwrap();
    let error = token.reload().await.unwrap_err();
    let _ = write!(shown, "{error} {error:?}");
    std::fs::write(&path, SECOND).unwrap();
    let second = format!("Bearer {SECOND}");
    eventually(async || client.tell(tell(0)).await.unwrap().into_inner().text == second).await;
    std::fs::remove_file(&path).unwrap();

    eventually(async || log.holds("the bearer token stays the old one")).await;

    drop(backend);
    eventually(async || client.tell(tell(0)).await.is_err()).await;
    for _ in 0..3 {
        let status = client.tell(tell(0)).await.unwrap_err();
        let mut chain: Option<&dyn std::error::Error> = Some(&status);
        while let Some(error) = chain {
            let _ = write!(shown, "{error} {error:?}");
            chain = error.source();
        }
    }
    let _ = write!(shown, "{mesh:?} {:?} {:?}", mesh.status(), mesh.circuits());
    let _ = mesh.shutdown(Duration::from_secs(1)).await;
    log.hides(shown, [FIRST, SECOND]);
}

/// The same through a table of the configuration; what there is to it but gRPC is in the facade's own suite.
#[tokio::test]
async fn a_table_of_the_configuration_sends_it_too() {
    const FIRST: &str = "dGFibGUtZmlyc3Q";
    const SECOND: &str = "dGFibGUtc2Vjb25k";
    let log = Log::global();
    let path = std::env::temp_dir().join(format!("tower-mesh-table-token-{}", std::process::id()));
    std::fs::write(&path, format!("{FIRST}\n")).unwrap();

    let server = TellerServer::new(Doorkeeper);
    let backend = Backend::serve("127.0.0.1:0".parse().unwrap(), |server| server, server);
    let table = format!("credentials = {{ bearer_file = {path:?}, reload = \"100ms\" }}");
    let mesh = mesh(&[backend.address], &table);
    let service = mesh.service("teller").unwrap().grpc(Channels::new());
    let mut shown = format!("{service:?}");
    let mut client = TellerClient::new(service);
    mesh.start().await.unwrap();

    let tell = |code| Ask { code, ..Ask::default() };
    assert_eq!(client.tell(tell(0)).await.unwrap().into_inner().text, format!("Bearer {FIRST}"));
    let mut own = Request::new(tell(0));
    own.metadata_mut().insert("authorization", "Basic eA==".parse().unwrap());
    assert_eq!(client.tell(own).await.unwrap().into_inner().text, "Basic eA==", "the caller's own is kept");

    std::fs::write(&path, SECOND).unwrap();
    let second = format!("Bearer {SECOND}");
    eventually(async || client.tell(tell(0)).await.unwrap().into_inner().text == second).await;
    std::fs::remove_file(&path).unwrap();

    let status = client.tell(tell(13)).await.unwrap_err();
    let _ = write!(shown, "{status} {status:?} {mesh:?} {:?}", mesh.status());
    let _ = mesh.shutdown(Duration::from_secs(1)).await;
    log.hides(shown, [FIRST, SECOND]);
}
