//! A generated client over the mesh, against a server on Python's grpcio.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::{Code, Request};
use tower_mesh::Mesh;
use tower_mesh::http::Channels;

use crate::process::{Process, missing};

/// What is made of `proto/story.proto`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, unused_qualifications, clippy::all)]
mod story {
    tonic::include_proto!("story");
}

use story::Ask;
use story::teller_client::TellerClient;

const PACKAGES: [&str; 3] = ["grpcio==1.85.1", "grpcio-tools==1.85.1", "grpcio-health-checking==1.85.1"];

fn run(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Python with what the server needs, in a place under the target directory; made once.
fn python() -> Option<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop-python");
    let (python, made) = (folder.join("venv/bin/python"), folder.join("story_pb2_grpc.py"));
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let ready = made.exists()
        || (run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")))
            && run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES)));
    // Made anew each time: the file may have changed.
    let out = |kind: &str| format!("--{kind}={}", folder.display());
    let mut protoc = Command::new(&python);
    protoc
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(proto)
        .args([out("python_out"), out("grpc_python_out")]);
    if ready && run(protoc.arg("story.proto")) {
        return Some((python, folder));
    }
    missing("Python's grpcio (python3-venv, and pip's registry)");
    None
}

fn server() -> Option<(Process, SocketAddr)> {
    let (python, folder) = python()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/teller.py");
    let mut command = Command::new(python);
    command.arg(script).env("PYTHONPATH", folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let process = Process::of(child);
    Some((process, SocketAddr::from(([127, 0, 0, 1], line.trim().parse().unwrap()))))
}

fn ask(text: &str) -> Ask {
    Ask { text: text.to_owned(), ..Ask::default() }
}

#[tokio::test]
async fn a_server_in_python() {
    let Some((_process, address)) = server() else { return };
    let config = format!(
        "[services.teller]\nendpoints = [\"{address}\"]\nretry.base_delay = \"1ms\"\nretry.max_delay = \"2ms\"\n\
         deadline.timeout = \"20s\"\nbreaker.consecutive_failures = 1000\nbreaker.min_calls = 1000\n\
         [services.teller.operations.\"story.Teller/Tell\"]\nidempotent = true\n\
         [services.teller.health]\ninterval = \"20ms\"\nunhealthy_interval = \"20ms\"\n\
         [services.teller.health.grpc]\nservice = \"story.Teller\""
    );
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let mut client = TellerClient::new(mesh.service("teller").unwrap().grpc(Channels::new()));
    mesh.start().await.unwrap();

    let told = client.tell(ask("once")).await.unwrap().into_inner();
    assert_eq!((&*told.text, &*told.by, &*told.previous_attempts), ("once", "python", ""));
    let left: f64 = told.timeout.parse().unwrap();
    assert!(left > 15.0 && left <= 20.0, "the deadline arrived: {left}");

    let told: Vec<_> =
        client.stream(Ask { count: 100, ..ask("x") }).await.unwrap().into_inner().collect().await;
    assert!(told.len() == 100 && told.iter().all(Result::is_ok));
    let asks = ["on", "ce", " upon"].map(ask);
    let told = client.collect(stream::iter(asks.clone())).await.unwrap().into_inner();
    assert_eq!(told.text, "once upon");
    let told = client.converse(stream::iter(asks)).await.unwrap().into_inner();
    let told: Vec<_> = told.map(|told| told.unwrap().text).collect().await;
    assert_eq!(told, ["on", "ce", " upon"]);

    for code in 1..=16 {
        let status = client.tell(Ask { code, ..ask("") }).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::from_i32(code), "as asked"));
        let mut told = client.stream(Ask { code, count: 1, ..ask("") }).await.unwrap().into_inner();
        assert!(told.message().await.unwrap().is_some());
        assert_eq!(told.message().await.unwrap_err().code(), Code::from_i32(code), "in the trailers");
    }
    assert!(mesh.status().services[0].retry.granted > 0, "UNAVAILABLE was tried again");

    let mut slow = Request::new(Ask { delay_ms: 2_000, ..ask("") });
    slow.set_timeout(Duration::from_millis(200));
    assert_eq!(client.tell(slow).await.unwrap_err().code(), Code::DeadlineExceeded);

    // What it says of its health.
    let until = |available: bool| {
        let mesh = &mesh;
        let now = move || mesh.status().services[0].endpoints[0].available;
        let said = async move {
            while now() != available {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), said)
    };
    until(true).await.unwrap();
    client.tell(ask("health off")).await.unwrap();
    until(false).await.unwrap();
    // All of them are down, which is below the panic threshold: they are asked nevertheless.
    client.tell(ask("health on")).await.unwrap();
    until(true).await.unwrap();
}
