//! tonic servers with layers of ours around them, and a mesh that asks them how they are.

use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::Stream;
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::ServingStatus;
use tower::{BoxError, ServiceBuilder};
use tower_mesh::breaker::{BreakerConfig, BreakerLayer};
use tower_mesh::http::{Channels, Classifier, IncomingLayer};
use tower_mesh::retry::{DeadlineConfig, DeadlineLayer};
use tower_mesh::{Answer, GrpcService, Mesh};

use crate::teller::story::teller_client::TellerClient;
use crate::teller::story::teller_server::{Teller, TellerServer};
use crate::teller::story::{Ask, Told};
use crate::teller::{Backend, ask, mesh, story};

/// Answers what the service behind it answers, through a mesh.
struct Front {
    behind: TellerClient<GrpcService>,
    /// What became of the calls behind.
    ends: &'static Mutex<Vec<(Code, Duration)>>,
}

type Tales = Pin<Box<dyn Stream<Item = Result<Told, Status>> + Send>>;

#[tonic::async_trait]
impl Teller for Front {
    type StreamStream = Tales;
    type ConverseStream = Tales;

    async fn tell(&self, request: Request<Ask>) -> Result<Response<Told>, Status> {
        let began = Instant::now();
        // The handler copies nothing of the caller's metadata: the time comes along in the context.
        let told = self.behind.clone().tell(request.into_inner()).await;
        let code = told.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.ends.lock().unwrap().push((code, began.elapsed()));
        told
    }

    async fn stream(&self, _: Request<Ask>) -> Result<Response<Tales>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn collect(&self, _: Request<Streaming<Ask>>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn converse(&self, _: Request<Streaming<Ask>>) -> Result<Response<Tales>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A client of a single server, without a mesh.
fn direct(backend: &Backend) -> TellerClient<Channel> {
    TellerClient::new(Endpoint::from_shared(format!("http://{}", backend.address)).unwrap().connect_lazy())
}

fn within(time: Duration, ask: Ask) -> Request<Ask> {
    let mut request = Request::new(ask);
    request.set_timeout(time);
    request
}

fn free() -> std::net::SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn the_callers_deadline_is_that_of_the_handlers_calls() {
    let behind = Backend::start("behind");
    let mesh: Mesh = mesh(&[behind.address], "");
    mesh.start().await.unwrap();
    let client = TellerClient::new(mesh.service("teller").unwrap().grpc(Channels::new()));
    let ends: &'static Mutex<Vec<_>> = Box::leak(Box::default());
    let layer = IncomingLayer::new().margin(Duration::from_millis(400));
    let teller = TellerServer::new(Front { behind: client, ends });
    let front = Backend::serve(free(), |server| server.layer(layer), teller);
    let mut caller = direct(&front);

    let told = caller.tell(within(Duration::from_secs(8), ask(""))).await.unwrap().into_inner().timeout;
    let micros: u64 = told.strip_suffix('u').expect(&told).parse().unwrap();
    assert!(
        (6_000_000..=7_600_000).contains(&micros),
        "less than what the caller gave, by the margin: {told}"
    );

    let slow = Ask { delay_ms: 10_000, ..ask("") };
    let status = caller.tell(within(Duration::from_secs(1), slow)).await.unwrap_err();
    let (code, took) = ends.lock().unwrap()[1];
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(took > Duration::from_millis(300) && took < Duration::from_millis(990), "{took:?}");
    let text = "service teller, operation story.Teller/Tell: the deadline has passed";
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, text), "the handler told it");
}

#[tokio::test]
async fn what_layers_around_a_server_refuse_is_a_status() {
    let config = BreakerConfig::builder().consecutive_failures(1).build().unwrap();
    let layers = ServiceBuilder::new()
        .map_err(|error: BoxError| Status::from(Answer::of(&*error)))
        .layer(DeadlineLayer::new(
            DeadlineConfig::builder().timeout(Duration::from_millis(200)).build().unwrap(),
        ))
        .layer(BreakerLayer::new(config, Classifier::default()));
    let front = Backend::serve(free(), |server| server.layer(layers), story("front"));
    let mut caller = direct(&front);

    caller.tell(ask("")).await.unwrap();
    let status = caller.tell(Ask { delay_ms: 5_000, ..ask("") }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "the deadline has passed"));
    // That was a failure, and one is enough.
    let status = caller.tell(ask("")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the circuit is open"));
    let wait = status.metadata().get("grpc-retry-pushback-ms").expect("how long to wait is known");
    assert!(wait.to_str().unwrap().parse::<u32>().unwrap() > 1000, "{wait:?}");
}

#[tokio::test]
async fn a_server_that_says_it_is_not_serving_gets_no_calls_until_it_says_it_is() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    for backend in [&a, &b] {
        backend.health.set_service_status("story.Teller", ServingStatus::Serving).await;
    }
    let health = "[services.teller.health]\ninterval = \"20ms\"\nunhealthy_interval = \"20ms\"\n\
                  [services.teller.health.grpc]\nservice = \"story.Teller\"\nwatch = true";
    let mesh = mesh(&[a.address, b.address], health);
    let mut client = TellerClient::new(mesh.service("teller").unwrap().grpc(Channels::new()));
    mesh.start().await.unwrap();

    let bound = Duration::from_secs(10);
    let healthy = |wanted: usize| {
        let mesh = &mesh;
        async move {
            let up =
                || mesh.status().services[0].endpoints.iter().filter(|endpoint| endpoint.available).count();
            let up = async {
                while up() != wanted {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(bound, up).await.unwrap();
        }
    };
    healthy(2).await;
    while a.calls() == 0 || b.calls() == 0 {
        client.tell(ask("")).await.unwrap();
    }
    a.health.set_service_status("story.Teller", ServingStatus::NotServing).await;
    healthy(1).await;
    let before = a.calls();
    for _ in 0..40 {
        assert_eq!(client.tell(ask("")).await.unwrap().into_inner().by, "b");
    }
    assert_eq!(a.calls(), before);
    a.health.set_service_status("story.Teller", ServingStatus::Serving).await;
    healthy(2).await;
    let again = async {
        while a.calls() == before {
            client.tell(ask("")).await.unwrap();
        }
    };
    timeout(bound, again).await.unwrap();
}
