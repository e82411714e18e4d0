//! Metrics of a mesh, through a real exporter: the table in the README is true, labels are bounded, and Prometheus' own tool finds nothing wrong.
//!
//! Without `promtool` that last part is said and passed over, but where `MESH_REQUIRE_SERVERS` is set it fails.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{Key, KeyName, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::time::sleep;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_mesh::breaker::{BreakerConfig, BreakerLayer};
use tower_mesh::core::classify::ByResult;
use tower_mesh::core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle, Tick};
use tower_mesh::{EventKind, Mesh, MeshRequest};
use tracing_subscriber::layer::SubscriberExt as _;

#[derive(Clone)]
struct Query(&'static str);

impl MeshRequest for Query {
    type Response = ();
}

struct Well;

impl Probe for Well {
    async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        Ok(Probed::Healthy)
    }
}

const CONFIG: &str = "
[services.database]
endpoints = [\"10.0.0.1:1\", \"10.0.0.2:1\"]
retry.base_delay = \"1ms\"
health.interval = \"1s\"
[services.database.breaker]
consecutive_failures = 4
reset_timeout = \"1s\"
";

/// What an exporter gives, and how many attempts failed by the records, after calls that went well, failed, were refused by a circuit, and were dropped.
async fn rendered() -> (String, u64) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    // The runtime of the test has one thread.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mesh = Mesh::builder().config_toml(CONFIG).probe("database", Well).measure_calls().build().unwrap();
    let service = mesh.service("database").unwrap().replay(Idempotent).connect(|_: &EndpointHandle| {
        service_fn(|query: Query| async move {
            match query.0 {
                "fail" => Err(BoxError::from("failed")),
                "hang" => std::future::pending().await,
                _ => Ok(()),
            }
        })
    });
    let service = service.operation("select");
    mesh.start().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    for _ in 0..7 {
        service.clone().oneshot(Query("a")).await.unwrap();
    }
    tokio::time::timeout(Duration::from_millis(1), service.clone().oneshot(Query("hang"))).await.unwrap_err();
    for _ in 0..6 {
        service.clone().oneshot(Query("fail")).await.unwrap_err();
    }
    // A circuit of the user's own beside the mesh's, which refuses.
    let own = BreakerLayer::named("own", BreakerConfig::default(), ByResult);
    own.circuit().force_open(Tick::of(tokio::time::Instant::now().into_std()));
    let own = own.layer(service_fn(|_: Query| async { Ok::<_, BoxError>(()) }));
    own.oneshot(Query("a")).await.unwrap_err();
    sleep(Duration::from_secs(2)).await;
    let rendered = handle.render();
    let failed = mesh.status().services[0].endpoints.iter().map(|endpoint| endpoint.failed).sum();
    mesh.shutdown(Duration::ZERO).await;
    (rendered, failed)
}

/// Labels and value.
type Series = (BTreeMap<String, String>, f64);

/// The series of each metric.
fn series(rendered: &str) -> BTreeMap<String, Vec<Series>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for line in rendered.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (name, value) = label.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        });
        all.entry(name.to_owned()).or_default().push((labels.collect(), value.parse().unwrap()));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn the_table_in_the_readme_is_true() {
    let (rendered, _) = rendered().await;
    let mut found = BTreeSet::new();
    for (name, series) in series(&rendered) {
        // A histogram is told as a summary, or as buckets.
        let name = ["_sum", "_count", "_bucket"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(&name)
            .to_owned();
        let labels: BTreeSet<_> = series.iter().flat_map(|(labels, _)| labels.keys().cloned()).collect();
        let labels = labels.into_iter().filter(|label| label != "quantile" && label != "le");
        let kind = rendered.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap();
        let kind = if kind == "summary" { "histogram" } else { kind };
        found.insert((name, kind.to_owned(), labels.collect::<Vec<_>>().join(", ")));
    }
    let readme = include_str!("../README.md");
    let rows = readme.lines().filter(|line| line.starts_with("| `tower_mesh_"));
    let told: BTreeSet<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
            let mut labels: Vec<_> = cells[3].split(", ").collect();
            labels.sort_unstable();
            (cells[1].clone(), cells[2].clone(), labels.join(", "))
        })
        .collect();
    assert_eq!(found, told);
}

#[tokio::test(start_paused = true)]
async fn values_are_those_of_the_calls_and_no_label_holds_an_address() {
    let (rendered, failed) = rendered().await;
    let all = series(&rendered);
    let value = |name: &str, wanted: &[(&str, &str)]| -> f64 {
        let is = |labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|found| found == value))
        };
        all[name].iter().filter(|(labels, _)| is(labels)).map(|(_, value)| value).sum()
    };
    let all_of = [("service", "database")];
    assert_eq!(value("tower_mesh_discovery_endpoints", &all_of), 2.0);
    assert_eq!(value("tower_mesh_calls_total", &[("operation", "select"), ("outcome", "ok")]), 7.0);
    assert_eq!(value("tower_mesh_calls_total", &[("outcome", "caller-gone")]), 1.0);
    assert_eq!(value("tower_mesh_calls_total", &[]), 14.0);
    assert_eq!(value("tower_mesh_call_duration_seconds_count", &all_of), 14.0);
    assert_eq!(value("tower_mesh_attempts_total", &[("outcome", "succeeded")]), 7.0);
    assert_eq!(value("tower_mesh_attempts_total", &[("outcome", "abandoned")]), 1.0);
    assert!(failed >= 8, "four in a row open a circuit, and there are two");
    assert_eq!(value("tower_mesh_attempts_total", &[("outcome", "failed")]), failed as f64);
    assert!(value("tower_mesh_retries_total", &[("reason", "local")]) >= 6.0);
    assert_eq!(value("tower_mesh_retry_stopped_total", &[]), 6.0);
    assert!(value("tower_mesh_probes_total", &[("result", "passed")]) >= 2.0);
    assert_eq!(value("tower_mesh_attempts_in_flight", &all_of), 0.0);
    assert!(!rendered.contains("10.0.0."), "{rendered}");
}

#[tokio::test(start_paused = true)]
async fn prometheus_finds_nothing_wrong() {
    let (rendered, _) = rendered().await;
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        assert!(
            std::env::var_os("MESH_REQUIRE_SERVERS").is_none(),
            "there is no promtool (Debian: prometheus)"
        );
        eprintln!("passed over: there is no promtool");
        return;
    };
    promtool.stdin.take().unwrap().write_all(rendered.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test(start_paused = true)]
async fn of_a_service_that_was_taken_out_nothing_is_there_any_more() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let config = |text: &str| tower_mesh::Config::from_toml(text).unwrap();
    let mesh = Mesh::builder().config(config("[services.a]\nendpoints = [\"10.0.0.1:1\"]")).build().unwrap();
    mesh.start().await.unwrap();
    let known = || {
        let all = series(&handle.render());
        all["tower_mesh_discovery_endpoints"].iter().map(|(_, value)| *value).collect::<Vec<_>>()
    };
    sleep(Duration::from_secs(2)).await;
    assert_eq!(known(), [1.0]);
    mesh.reload(config("")).unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(known(), [0.0]);
    mesh.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_taken_out_and_comes_back_counts_on_from_where_it_was() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let config = |text: &str| tower_mesh::Config::from_toml(text).unwrap();
    let with = || config("[services.a]\nendpoints = [\"10.0.0.1:1\"]");
    let mesh = Mesh::builder().config(with()).measure_calls().build().unwrap();
    mesh.start().await.unwrap();
    let counted = || {
        let all = series(&handle.render());
        let sum = |name: &str, of: &str| -> f64 {
            let is = |labels: &BTreeMap<String, String>| labels["outcome"] == of;
            all[name].iter().filter(|(labels, _)| is(labels)).map(|(_, value)| value).sum()
        };
        (sum("tower_mesh_attempts_total", "succeeded"), sum("tower_mesh_calls_total", "ok"))
    };
    let calls = async |count: usize| {
        let service = mesh
            .service("a")
            .unwrap()
            .connect(|_: &EndpointHandle| service_fn(|_: Query| async { Ok::<_, BoxError>(()) }));
        for _ in 0..count {
            service.clone().oneshot(Query("a")).await.unwrap();
        }
        sleep(Duration::from_secs(2)).await;
    };
    calls(5).await;
    assert_eq!(counted(), (5.0, 5.0));
    mesh.reload(config("")).unwrap();
    sleep(Duration::from_secs(2)).await;
    mesh.reload(with()).unwrap();
    calls(3).await;
    assert_eq!(counted(), (8.0, 8.0));
    // Even if nobody has looked in between.
    mesh.reload(config("")).unwrap();
    mesh.reload(with()).unwrap();
    calls(4).await;
    assert_eq!(counted(), (12.0, 12.0));
    mesh.shutdown(Duration::ZERO).await;
}

/// Prometheus' recorder, which can be broken for what is told once a second: circuits tell of themselves as they change.
struct Breakable {
    recorder: metrics_exporter_prometheus::PrometheusRecorder,
    broken: AtomicBool,
}

impl Breakable {
    fn of(&self, name: &str) -> &dyn metrics::Recorder {
        let well = name.starts_with("tower_mesh_circuit") || !self.broken.load(Ordering::Relaxed);
        assert!(well, "the recorder is broken");
        &self.recorder
    }
}

impl metrics::Recorder for Breakable {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.of(key.as_str()).describe_counter(key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.of(key.as_str()).describe_gauge(key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.of(key.as_str()).describe_histogram(key, unit, text);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> metrics::Counter {
        self.of(key.name()).register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> metrics::Gauge {
        self.of(key.name()).register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> metrics::Histogram {
        self.of(key.name()).register_histogram(key, metadata)
    }
}

/// Counts the errors that are told.
#[derive(Clone, Default)]
struct Errors(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_panics_stops_nothing_and_is_told_of_once() {
    let errors = Errors::default();
    let _told = tracing::subscriber::set_default(tracing_subscriber::registry().with(errors.clone()));
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let breakable = Breakable { recorder, broken: AtomicBool::new(true) };
    let _recording = metrics::set_default_local_recorder(&breakable);
    let config = "[services.a]\nendpoints = [\"10.0.0.1:1\"]\n[services.b]\nendpoints = [\"10.0.0.2:1\"]";
    let mesh = Mesh::builder().config_toml(config).build().unwrap();
    let service = mesh
        .service("b")
        .unwrap()
        .connect(|_: &EndpointHandle| service_fn(|_: Query| async { Ok::<_, BoxError>(()) }));
    let mut events = mesh.events();
    mesh.start().await.unwrap();
    service.clone().oneshot(Query("a")).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(mesh.status().services[1].rates.last_10s.attempts, 1, "rates go on");
    let ready = std::iter::from_fn(|| events.try_next())
        .any(|event| matches!(event.unwrap().kind, EventKind::ReadinessChanged { ready: true, .. }));
    assert!(ready, "and readiness");
    assert_eq!(errors.0.load(Ordering::Relaxed), 1);
    breakable.broken.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(2)).await;
    let all = series(&handle.render());
    let attempts = all["tower_mesh_attempts_total"].iter().map(|(_, value)| value).sum::<f64>();
    assert_eq!(attempts, 1.0, "nor is anything lost that was counted meanwhile");
    mesh.shutdown(Duration::ZERO).await;
}
