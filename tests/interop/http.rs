//! nginx, and HAProxy before nginx, over HTTP/1.1 and over HTTP/2 from the first byte.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_mesh::{HttpService, Mesh};

use crate::process::{Process, free, listening};

const LARGE: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Nginx,
    HaProxy,
}

/// A server with a name, which `/flaky` refuses if it is "a". Both of its addresses serve the same.
struct Server {
    kind: Kind,
    folder: PathBuf,
    http1: SocketAddr,
    http2: SocketAddr,
    /// HAProxy's backend goes with it.
    processes: Vec<Process>,
}

impl Server {
    async fn start(kind: Kind, name: &str) -> Option<Self> {
        let folder = std::env::temp_dir().join(format!("tower-mesh-interop-{}-{name}", free().port()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("large"), vec![b'x'; LARGE]).unwrap();
        let (http1, http2) = (free(), free());
        let (inner1, inner2) = if kind == Kind::HaProxy { (free(), free()) } else { (http1, http2) };
        let flaky = if name == "a" { 503 } else { 200 };
        let at = folder.display();
        let nginx = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/log;\n\
             events {{ worker_connections 128; }}\n\
             http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
             uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; client_max_body_size 0; default_type text/plain;\n\
             server {{ listen {inner1}; listen {inner2} http2; add_header x-port $remote_port always; root {at};\n\
             location / {{ return 200 \"{name} $request_method $content_length\"; }}\n\
             location = /flaky {{ return {flaky} \"{name}\"; }}\n\
             location = /close {{ keepalive_timeout 0; return 200 \"{name}\"; }}\n\
             location = /large {{ try_files /large =404; }} }} }}\n"
        );
        fs::write(folder.join("nginx.conf"), nginx).unwrap();
        let haproxy = format!(
            "defaults\n mode http\n timeout connect 2s\n timeout client 30s\n timeout server 30s\n\
             frontend one\n bind {http1}\n bind {http2} proto h2\n\
             http-after-response set-header x-port %[src_port]\n default_backend nginx\n\
             backend nginx\n server nginx {inner1}\n"
        );
        fs::write(folder.join("haproxy.cfg"), haproxy).unwrap();
        let mut server = Self { kind, folder, http1, http2, processes: Vec::new() };
        server.run().await.then_some(server)
    }

    /// Starts it, at the same addresses if it ran before: whether there is such a program.
    async fn run(&mut self) -> bool {
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(self.folder.join("nginx.conf")).arg("-e").arg(self.folder.join("log"));
        self.processes.extend(Process::start(&mut nginx, "nginx-light"));
        if self.kind == Kind::HaProxy {
            let mut haproxy = Command::new("haproxy");
            haproxy.arg("-db").arg("-f").arg(self.folder.join("haproxy.cfg"));
            self.processes.extend(Process::start(&mut haproxy, "haproxy"));
        }
        let complete = self.processes.len() == if self.kind == Kind::HaProxy { 2 } else { 1 };
        if complete {
            listening(self.http1).await;
            listening(self.http2).await;
        }
        complete
    }

    fn kill(&mut self) {
        self.processes.clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

type Http = Client<HttpConnector, Full<Bytes>>;

struct Answer {
    status: StatusCode,
    version: Version,
    /// The port of this end of the connection.
    port: String,
    text: Bytes,
}

async fn send(service: &HttpService<Http>, method: Method, path: &str, body: Bytes) -> Answer {
    let request = Request::builder().method(method).uri(path).body(Full::new(body)).unwrap();
    let (head, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    let port = head.headers["x-port"].to_str().unwrap().to_owned();
    let text = body.collect().await.unwrap().to_bytes();
    Answer { status: head.status, version: head.version, port, text }
}

async fn get(service: &HttpService<Http>, path: &str) -> Answer {
    send(service, Method::GET, path, Bytes::new()).await
}

fn granted(mesh: &Mesh) -> u64 {
    mesh.status().services[0].retry.granted
}

async fn suite(kind: Kind, version: Version) {
    let (Some(mut a), Some(b)) = (Server::start(kind, "a").await, Server::start(kind, "b").await) else {
        return;
    };
    let http2 = version == Version::HTTP_2;
    let address = |server: &Server| if http2 { server.http2 } else { server.http1 };
    let config = format!(
        "[services.web]\nendpoints = [\"{}\", \"{}\"]\nretry.base_delay = \"1ms\"\nretry.max_delay = \"2ms\"\n\
         discovery.algorithm = \"round_robin\"\nbreaker.consecutive_failures = 3\nbreaker.reset_timeout = \"100ms\"",
        address(&a),
        address(&b)
    );
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let client: Http = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
    let web = mesh.service("web").unwrap().http(client);
    mesh.start().await.unwrap();

    // With and without a body; connections are kept.
    let (mut by, mut ports) = (HashSet::new(), HashSet::new());
    for _ in 0..30 {
        let answer = get(&web, "/").await;
        assert_eq!((answer.status, answer.version), (StatusCode::OK, version));
        ports.insert(answer.port);
        by.insert(answer.text[0]);
        let answer = send(&web, Method::POST, "/", Bytes::from_static(b"0123456789")).await;
        let text = String::from_utf8(answer.text.to_vec()).unwrap();
        assert!(answer.status == StatusCode::OK && text.ends_with(" POST 10"), "{text}");
        ports.insert(answer.port);
        by.insert(answer.text[0]);
    }
    assert_eq!(by, HashSet::from([b'a', b'b']));
    assert_eq!(ports.len(), 2, "a connection for each");

    // Large ones, both ways.
    for _ in 0..4 {
        let answer = get(&web, "/large").await;
        assert!(answer.text.len() == LARGE && answer.text.iter().all(|byte| *byte == b'x'));
        let answer = send(&web, Method::POST, "/", vec![b'x'; LARGE].into()).await;
        assert!(answer.text.ends_with(LARGE.to_string().as_bytes()), "{:?}", answer.text);
    }

    // Connections that the server closes after each answer.
    let mut ports = HashSet::new();
    for _ in 0..20 {
        let answer = get(&web, "/close").await;
        assert_eq!(answer.status, StatusCode::OK);
        ports.insert(answer.port);
    }
    if kind == Kind::Nginx && !http2 {
        assert_eq!(ports.len(), 20);
    }

    // One of them answers 503: callers do not see it, and no POST is sent twice.
    assert_eq!(granted(&mesh), 0);
    for _ in 0..30 {
        assert_eq!(get(&web, "/flaky").await.text, "b");
    }
    assert!(granted(&mesh) > 0);

    // Killed, and back.
    a.kill();
    for _ in 0..50 {
        assert_eq!(get(&web, "/").await.text[0], b'b');
    }
    assert!(a.run().await);
    let back = async { while get(&web, "/").await.text[0] != b'a' {} };
    timeout(Duration::from_secs(10), back).await.unwrap();
}

#[tokio::test]
async fn nginx_over_http1() {
    suite(Kind::Nginx, Version::HTTP_11).await;
}

#[tokio::test]
async fn nginx_over_http2() {
    suite(Kind::Nginx, Version::HTTP_2).await;
}

#[tokio::test]
async fn haproxy_over_http1() {
    suite(Kind::HaProxy, Version::HTTP_11).await;
}

#[tokio::test]
async fn haproxy_over_http2() {
    suite(Kind::HaProxy, Version::HTTP_2).await;
}
