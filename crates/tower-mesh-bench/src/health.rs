//! What checking costs: the prober's own work with probes that do nothing, and with real ones over HTTP on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::{Endpoint, EndpointHandle};
use tower_mesh_health::{HealthConfig, HealthLayer};

use crate::thread_time;

/// One line of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) probe: &'static str,
    pub(crate) endpoints: usize,
    pub(crate) interval_ms: u128,
    pub(crate) probes: u32,
    /// Processor time of the thread that checks, a probe; none where the system does not tell.
    pub(crate) us_per_probe: Option<f64>,
    /// The same of one core, in percent.
    pub(crate) cpu_percent: Option<f64>,
    /// Probes begun in ten milliseconds: on average, and in the fullest of all.
    pub(crate) mean_per_10ms: f64,
    pub(crate) peak_per_10ms: u32,
}

/// Few and many endpoints, and how often each is checked.
const FLEETS: [(usize, Duration); 2] = [(10, Duration::from_millis(10)), (10_000, Duration::from_secs(5))];

/// Measures every fleet for `time`, which is at least two of its intervals.
pub(crate) fn rows(time: Duration) -> Vec<Row> {
    let server = serve();
    let real = || tower_mesh_http::probe::get("/healthz").host(server.ip().to_string()).port(server.port());
    let mut rows = Vec::new();
    for (endpoints, interval) in FLEETS {
        rows.push(row("none", endpoints, interval, time, AlwaysWell));
        rows.push(row("http", endpoints, interval, time, real()));
    }
    rows
}

fn row(name: &'static str, endpoints: usize, interval: Duration, time: Duration, probe: impl Probe) -> Row {
    let time = time.max(interval * 2);
    // On a thread of its own, so that the processor time is the prober's and nobody else's.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let begun = Arc::new(Begun::for_time(time));
            let config = HealthConfig::builder()
                .interval(interval)
                .initial_spread(interval)
                .build()
                .expect("a configuration");
            let (health, prober) = HealthLayer::new(config, Counted { inner: probe, begun: begun.clone() });
            let fleet: Vec<_> = (0..endpoints).map(endpoint).collect();
            for endpoint in &fleet {
                health.watching(endpoint);
            }
            let before = thread_time::processor();
            let started = Instant::now();
            let ran = tokio::time::timeout(time, prober).await;
            assert!(ran.is_err(), "the prober goes on");
            let spent = thread_time::processor().zip(before).map(|(after, before)| after - before);
            let down = health.status().iter().filter(|status| status.consecutive_failures() > 0).count();
            assert_eq!(down, 0, "every probe passes");
            (begun, spent, started.elapsed())
        })
    });
    let (begun, spent, elapsed) = thread.join().expect("no panic");
    let (probes, peak) = begun.sum_and_peak();
    Row {
        probe: name,
        endpoints,
        interval_ms: interval.as_millis(),
        probes,
        us_per_probe: spent.map(|spent| spent.as_secs_f64() * 1e6 / f64::from(probes)),
        cpu_percent: spent.map(|spent| spent.as_secs_f64() / elapsed.as_secs_f64() * 100.0),
        mean_per_10ms: f64::from(probes) / (elapsed.as_secs_f64() * 100.0),
        peak_per_10ms: peak,
    }
}

fn endpoint(i: usize) -> EndpointHandle {
    let address = format!("10.{}.{}.{}:80", i >> 16 & 255, i >> 8 & 255, i & 255);
    EndpointHandle::new(Endpoint::new(address).expect("an address"))
}

/// How many probes began in each ten milliseconds.
struct Begun {
    started: Instant,
    slots: Vec<AtomicU32>,
}

impl Begun {
    fn for_time(time: Duration) -> Self {
        let slots = time.as_millis() as usize / 10 + 10;
        Self { started: Instant::now(), slots: (0..slots).map(|_| AtomicU32::new(0)).collect() }
    }

    fn count(&self) {
        let slot = self.started.elapsed().as_millis() as usize / 10;
        if let Some(slot) = self.slots.get(slot) {
            slot.fetch_add(1, Relaxed);
        }
    }

    fn sum_and_peak(&self) -> (u32, u32) {
        let counts = || self.slots.iter().map(|slot| slot.load(Relaxed));
        (counts().sum(), counts().max().unwrap_or(0))
    }
}

struct Counted<P> {
    inner: P,
    begun: Arc<Begun>,
}

impl<P: Probe> Probe for Counted<P> {
    async fn probe(&self, endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        self.begun.count();
        self.inner.probe(endpoint).await
    }
}

struct AlwaysWell;

impl Probe for AlwaysWell {
    async fn probe(&self, _endpoint: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        Ok(Probed::Healthy)
    }
}

/// A server that says yes to every connection, on a thread of its own for as long as the process lives.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    address
}
