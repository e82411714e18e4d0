//! The main job on real input: a mesh in front of real HTTP servers, steady traffic, and things going wrong on a schedule.
//!
//! `cargo run --release --example quickstart -- [--seconds N] [--json FILE]`
//!
//! Two clients send the same traffic at the same time to the same servers: one through the mesh, one plainly in turn. At the end stands what the callers of
//! each have seen.

mod faults;
mod load;
mod plain;
mod report;
mod show;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::ServiceBuilder;
use tower_mesh::Mesh;
use tower_mesh::core::BoxError;
use tower_mesh::discovery::FixedList;
use tower_mesh_examples::Backend;

use crate::load::Caller;

/// How many servers there are.
const BACKENDS: usize = 5;
/// Requests a second, of each of the two clients.
const RATE: u32 = 200;
/// How long either client waits for an answer: the deadline that the mesh's configuration sets.
const PATIENCE: Duration = Duration::from_secs(2);

const USAGE: &str = "usage: quickstart [--seconds N] [--json FILE]    (N from 5 to 3600, 30 if not given)";

type HttpClient = Client<HttpConnector, Empty<Bytes>>;

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (seconds, json) = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(Duration::from_secs(seconds), json.as_deref()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(length: Duration, json: Option<&Path>) -> Result<(), BoxError> {
    let mut backends = Vec::new();
    for _ in 0..BACKENDS {
        backends.push(Backend::start().await?);
    }
    let list = FixedList::new(backends.iter().map(Backend::endpoint))?;

    // The mesh: a configuration, who resolves, and the client that the program has anyway.
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/quickstart.toml");
    let mesh = Mesh::builder().config_path(config).resolver("backends", list.clone()).build()?;
    let sent = Arc::new(AtomicU64::new(0));
    let client = ServiceBuilder::new().map_request(counting(&sent)).service(http_client());
    let users = mesh.service("users")?.http(client);
    mesh.start().await?;

    // The same traffic through the mesh and plainly in turn, while things go wrong.
    let through_mesh = Caller::start(users, RATE, length);
    let plainly = Caller::start(plain::RoundRobin::new(http_client(), list.clone(), PATIENCE), RATE, length);
    let watch = watch::Watch::start(mesh.clone(), length);
    let faults = faults::Schedule::new(length).run(&mut backends, &list, &watch);
    let show = show::run(&mesh, &watch, [through_mesh.counts(), plainly.counts()], length);
    let (faults, ()) = tokio::join!(faults, show);
    faults?;

    let outages = watch.finish().await;
    let mesh_seen = report::Seen::new(through_mesh.finish().await, sent.load(Ordering::Relaxed), outages);
    let plain_seen = report::Seen::plain(plainly.finish().await);
    mesh.shutdown(Duration::from_secs(1)).await;
    report::print(&mesh_seen, &plain_seen);
    if let Some(path) = json {
        report::write_json(path, &mesh_seen, &plain_seen)?;
    }
    Ok(())
}

fn http_client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Counts what really goes out, retries included.
fn counting<T>(sent: &Arc<AtomicU64>) -> impl Fn(T) -> T + Clone + Send + Sync + 'static {
    let sent = sent.clone();
    move |request| {
        sent.fetch_add(1, Ordering::Relaxed);
        request
    }
}

fn arguments() -> Result<(u64, Option<PathBuf>), String> {
    let (mut seconds, mut json) = (30, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--seconds" => {
                let value = value()?;
                seconds = value.parse().map_err(|_| format!("--seconds takes a number, not {value}"))?;
            }
            "--json" => json = Some(PathBuf::from(value()?)),
            _ => return Err(format!("unknown argument {flag}")),
        }
    }
    if !(5..=3600).contains(&seconds) {
        return Err(format!("--seconds {seconds} is out of range"));
    }
    Ok((seconds, json))
}
