//! A real etcd server, from Debian's `etcd-server`, on ports of loopback.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use etcd_client::Client;
use tower_mesh_etcd::{EtcdConfig, EtcdConfigBuilder, EtcdResolver};

/// A server of its own for one test. It ends with it, and its data with it.
pub(crate) struct Etcd {
    process: Option<Child>,
    folder: PathBuf,
    pub(crate) address: SocketAddr,
    peer: SocketAddr,
    /// What it shows and asks for, if it is encrypted.
    tls: Option<[PathBuf; 3]>,
}

impl Etcd {
    /// None where there is no etcd, and that may be.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// The same with a certificate, its key, and the authority by which it knows its clients, in PEM.
    #[cfg(feature = "tls")]
    pub(crate) async fn start_encrypted(pem: [String; 3]) -> Option<Self> {
        Self::start_with(Some(pem)).await
    }

    async fn start_with(pem: Option<[String; 3]>) -> Option<Self> {
        let version =
            Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if version.is_err() {
            assert!(std::env::var_os("MESH_REQUIRE_SERVERS").is_none(), "etcd is missing (etcd-server)");
            println!("skipped: etcd is missing (Debian: etcd-server)");
            return None;
        }
        for _ in 0..5 {
            // Ports that are free now may be taken before etcd has them: then others.
            let free = || TcpListener::bind("127.0.0.1:0").unwrap();
            let [address, peer] = [free(), free()].map(|listener| listener.local_addr().unwrap());
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let n = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("tower-mesh-etcd-{}-{n}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let tls = pem.as_ref().map(|pem| {
                let paths = ["cert.pem", "key.pem", "ca.pem"].map(|name| folder.join(name));
                paths.iter().zip(pem).for_each(|(path, pem)| fs::write(path, pem).unwrap());
                paths
            });
            let open = tls.is_none();
            let mut etcd = Self { process: None, folder, address, peer, tls };
            if etcd.run_until(open).await {
                return Some(etcd);
            }
        }
        panic!("etcd does not start");
    }

    /// Starts it on the data there is; whether it answers.
    pub(crate) async fn run(&mut self) -> bool {
        self.run_until(true).await
    }

    /// The same where it answers only those whom it knows.
    pub(crate) async fn run_locked(&mut self) -> bool {
        self.run_until(false).await
    }

    async fn run_until(&mut self, open: bool) -> bool {
        let url = |address: SocketAddr| format!("http://{address}");
        let client_url = self.url();
        let log = fs::File::create(self.folder.join("log")).unwrap();
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.join("data"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &url(self.peer), "--initial-advertise-peer-urls", &url(self.peer)])
            .args(["--initial-cluster", &format!("default={}", url(self.peer)), "--log-level", "warn"])
            .args(self.tls.iter().flat_map(|[cert, key, ca]| {
                [("--cert-file", cert), ("--key-file", key), ("--trusted-ca-file", ca)]
                    .map(|(flag, path)| format!("{flag}={}", path.display()))
            }))
            .args(self.tls.iter().map(|_| "--client-cert-auth"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = self.process.insert(process);
        for _ in 0..400 {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(self.address).is_ok() && (!open || answers(self.address).await) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        false
    }

    /// As a machine that loses its power.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends a signal, by the server's own id.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").arg(signal).arg(id).status().unwrap().success());
    }

    pub(crate) fn lose_data(&self) {
        assert!(self.process.is_none());
        fs::remove_dir_all(self.folder.join("data")).unwrap();
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// A client of the test's own.
    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }

    pub(crate) fn resolver(
        &self,
        change: impl FnOnce(EtcdConfigBuilder) -> EtcdConfigBuilder,
    ) -> EtcdResolver {
        let ms = Duration::from_millis;
        let config = EtcdConfig::builder()
            .servers([self.url()])
            .timeout(ms(2000))
            .retry_delay(ms(50))
            .max_retry_delay(ms(200))
            .ttl(Duration::from_secs(2));
        EtcdResolver::new(change(config).build().unwrap())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn answers(address: SocketAddr) -> bool {
    let url = format!("http://{address}");
    let asked = async { Client::connect([url], None).await?.get("x", None).await };
    matches!(tokio::time::timeout(Duration::from_secs(2), asked).await, Ok(Ok(_)))
}
