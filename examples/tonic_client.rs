//! gRPC: a client that tonic generated takes a service of the mesh as it would take a channel.
//!
//! `cargo run --features tonic --example tonic_client`

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tower_mesh::http::{Channels, IncomingLayer};
use tower_mesh::{GrpcService, Mesh};

/// What is made of `greeter.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, unused_qualifications, clippy::all)]
mod greeter {
    tonic::include_proto!("greeter");
}

use greeter::greeter_client::GreeterClient;
use greeter::greeter_server::{Greeter, GreeterServer};
use greeter::{Greeting, Hello};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (refuses, one, two) = (Backend::start("refuses")?, Backend::start("one")?, Backend::start("two")?);
    let endpoints = [&refuses, &one, &two].map(|backend| backend.address.to_string());
    let config = format!(
        r#"
        [services.greeter]
        endpoints = {endpoints:?}
        [services.greeter.operations."greeter.Greeter/SayHello"]
        idempotent = true       # gRPC does not say it: this method may run twice
        "#
    );
    let mesh = Mesh::builder().config_toml(config).build()?;
    let mut client = GreeterClient::new(mesh.service("greeter")?.grpc(Channels::new()));
    mesh.start().await?;

    let (greeted, by_it) = greet(&mut client).await;
    println!("one answers UNAVAILABLE   {greeted} of 30 greeted, {by_it} by the one that refuses");

    // The deadline of the whole call, which the servers are told.
    let mut request = Request::new(hello("sleeper"));
    request.set_timeout(Duration::from_millis(200));
    let status = client.say_hello(request).await.err().ok_or("it sleeps")?;
    println!("200 ms for a sleeper      {:?}: {}", status.code(), status.message());

    // A stream ends, for the balancer too, with its trailers.
    let counted = client.count(hello("3")).await?.into_inner().count().await;
    println!("a stream                  counted to {counted}");

    drop(one);
    // The channel's connection has broken: that is seen before a call is sent.
    tokio::time::sleep(Duration::from_millis(100)).await;
    println!("one was killed            {} of 30 greeted", greet(&mut client).await.0);

    drop((refuses, two));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = client.say_hello(hello("anybody")).await.err().ok_or("nobody is left")?;
    println!("all are gone              {:?}: {}", status.code(), status.message());
    mesh.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

fn hello(name: &str) -> Hello {
    Hello { name: name.to_owned() }
}

/// Greets thirty times: how often with success, and how often the answer came from the server that refuses.
async fn greet(client: &mut GreeterClient<GrpcService>) -> (usize, usize) {
    let mut texts = Vec::new();
    for _ in 0..30 {
        texts.extend(client.say_hello(hello("you")).await.map(|greeting| greeting.into_inner().text));
    }
    (texts.len(), texts.iter().filter(|text| text.ends_with("refuses")).count())
}

/// A tonic server on a runtime of its own: dropped, it is killed with all its connections.
struct Backend {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Backend {
    fn start(name: &'static str) -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let incoming = {
            let _inside = runtime.enter();
            TcpIncoming::bind("127.0.0.1:0".parse()?)?
        };
        let address = incoming.local_addr()?;
        // Calls that the handlers made would end in their caller's time.
        let server =
            Server::builder().layer(IncomingLayer::new()).add_service(GreeterServer::new(Named(name)));
        runtime.spawn(server.serve_with_incoming(incoming));
        Ok(Self { address, runtime: Some(runtime) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

struct Named(&'static str);

#[tonic::async_trait]
impl Greeter for Named {
    type CountStream = Pin<Box<dyn Stream<Item = Result<Greeting, Status>> + Send>>;

    async fn say_hello(&self, request: Request<Hello>) -> Result<Response<Greeting>, Status> {
        match &*request.into_inner().name {
            "sleeper" => tokio::time::sleep(Duration::from_secs(5)).await,
            _ if self.0 == "refuses" => return Err(Status::unavailable("not now")),
            _ => {}
        }
        Ok(Response::new(Greeting { text: format!("hello from {}", self.0) }))
    }

    async fn count(&self, request: Request<Hello>) -> Result<Response<Self::CountStream>, Status> {
        let to: u32 = request.into_inner().name.parse().map_err(|_| Status::invalid_argument("no number"))?;
        let greetings = (1..=to).map(|n| Ok(Greeting { text: n.to_string() }));
        Ok(Response::new(stream::iter(greetings).boxed()))
    }
}
