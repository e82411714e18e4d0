//! Traces for OpenTelemetry: a request, its call through the mesh and every attempt are spans of one trace, exported over OTLP, and the servers learn which trace they
//! work for by W3C's `traceparent`. The collector is one of our own, in this process, to show what arrives.
//!
//! `cargo run --example opentelemetry --features opentelemetry`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::Request;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::HeaderInjector;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tower::util::MapRequestLayer;
use tower::{BoxError, ServiceExt};
use tower_mesh::Mesh;
use tower_mesh::core::{Endpoint, EndpointHandle};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

type Body = Empty<bytes::Bytes>;

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A server that remembers the trace it was asked to work for, and answers with this status.
async fn server(status: u16, seen: Arc<Mutex<Vec<String>>>) -> std::io::Result<Endpoint> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = Endpoint::from(listener.local_addr()?);
    let answer = move |headers: http::HeaderMap| {
        let told =
            headers.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned();
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(told);
        async move { http::StatusCode::from_u16(status).unwrap_or_default() }
    };
    let app = axum::Router::new().route("/", axum::routing::get(answer));
    #[expect(clippy::disallowed_methods, reason = "the server of an example ends with it")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(endpoint)
}

/// Tells the server which trace and which attempt this request belongs to: around each endpoint, so that every attempt says its own.
fn tell_trace(mut request: Request<Body>) -> Request<Body> {
    let context = tracing::Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(request.headers_mut()));
    request
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The collector, and the exporter to it.
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = TraceServiceServer::new(collector.clone());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    #[expect(clippy::disallowed_methods, reason = "the collector of an example ends with it")]
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://{address}"))
        .build()?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    // The mesh's spans are at debug level, of one target: nothing else of that level is wanted.
    let wanted = Targets::new().with_default(LevelFilter::INFO).with_target("tower_mesh", LevelFilter::DEBUG);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("example")).with_filter(wanted);
    tracing_subscriber::registry().with(layer).init();

    // Two servers: what the first refuses, the second answers.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (failing, well) = (server(503, seen.clone()).await?, server(200, seen.clone()).await?);
    let config = format!(
        "[services.users]\nendpoints = [\"{}\", \"{}\"]\nretry = {{ base_delay = \"1ms\", max_delay = \"5ms\" }}\ndiscovery.failure_penalty = \"0s\"",
        failing.address(),
        well.address()
    );
    let mesh = Mesh::builder().config_toml(config).build()?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let users = mesh
        .service("users")?
        .per_endpoint(|_: &EndpointHandle| MapRequestLayer::new(tell_trace))
        .http(client)
        .operation("get-user");
    mesh.start().await?;
    for number in 0..10 {
        let request = Request::get("/").body(Body::new())?;
        let span = tracing::info_span!("request", number);
        let response = users.clone().oneshot(request).instrument(span).await?;
        assert_eq!(response.status(), 200);
    }
    mesh.shutdown(std::time::Duration::from_secs(5)).await;
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;

    // What arrived.
    let spans = std::mem::take(&mut *collector.0.lock().unwrap_or_else(PoisonError::into_inner));
    let mut traces: BTreeMap<Vec<u8>, Vec<&Span>> = BTreeMap::new();
    spans.iter().for_each(|span| traces.entry(span.trace_id.clone()).or_default().push(span));
    println!("{} requests, {} traces at the collector", 10, traces.len());
    let most = traces.values().max_by_key(|spans| spans.len()).ok_or("no trace")?;
    let root = most.iter().find(|span| span.parent_span_id.is_empty()).ok_or("no root")?;
    println!("the one with the most spans:");
    show(root, most, 1);

    let attempts: Vec<String> = spans
        .iter()
        .filter(|span| span.name == "mesh.attempt")
        .map(|span| format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)))
        .collect();
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let known = seen.iter().filter(|told| attempts.contains(told)).count();
    println!("{known} of {} requests at the servers named an attempt that the collector knows", seen.len());
    if known == seen.len() { Ok(()) } else { Err("some named none".into()) }
}

fn show(span: &Span, all: &[&Span], depth: usize) {
    let value = |name: &str| {
        let attribute = span.attributes.iter().find(|attribute| attribute.key == name);
        attribute
            .and_then(|attribute| attribute.value.as_ref()?.value.as_ref())
            .map(|value| format!("{value:?}"))
    };
    let outcome = value("mesh.outcome").unwrap_or_default();
    println!("{}{} {outcome}", "  ".repeat(depth), span.name);
    let mut children: Vec<_> = all.iter().filter(|child| child.parent_span_id == span.span_id).collect();
    children.sort_by_key(|child| child.start_time_unix_nano);
    children.into_iter().for_each(|child| show(child, all, depth + 1));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
