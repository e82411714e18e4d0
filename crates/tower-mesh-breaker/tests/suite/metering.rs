//! What the `metrics` facade is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use tower_mesh_breaker::{BreakerConfig, BreakerLayer};
use tower_mesh_core::EndpointHandle;
use tower_mesh_core::classify::ByResult;

use crate::inner::now;

/// Every series by its name and labels.
#[derive(Default)]
struct Recorder(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorder {
    fn series(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().unwrap().entry(name).or_default().clone()
    }

    /// Those that are not zero.
    fn gauges(&self) -> Vec<(String, f64)> {
        let series = self.0.lock().unwrap();
        let gauges = series.iter().filter(|(name, _)| name.starts_with("tower_mesh_circuits"));
        let values =
            gauges.map(|(name, value)| (name.clone(), f64::from_bits(value.load(Ordering::Relaxed))));
        values.filter(|(_, value)| *value != 0.0).collect()
    }

    fn counter(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |value| value.load(Ordering::Relaxed))
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn the_gauges_hold_what_is_and_no_state_that_is_over_and_no_label_is_an_address() {
    let recorder = Recorder::default();
    let start = now();
    metrics::with_local_recorder(&recorder, || {
        let layer = BreakerLayer::named("users", BreakerConfig::default(), ByResult);
        let endpoints = ["a:1", "b:1"].map(|address| EndpointHandle::new(address.parse().unwrap()));
        let [a, b] = endpoints.each_ref().map(|endpoint| layer.watching(endpoint));
        let circuits = |state: &str| format!("tower_mesh_circuits{{breaker=users,state={state}}}");
        assert_eq!(recorder.gauges(), [(circuits("closed"), 3.0)]);
        a.circuit().trip(start);
        b.circuit().trip(start);
        assert_eq!(recorder.gauges(), [(circuits("closed"), 1.0), (circuits("open"), 2.0)]);
        assert!(a.circuit().acquire(start).is_err() && a.circuit().acquire(start).is_err());
        let trial = b.circuit().acquire(start + Duration::from_secs(5)).unwrap();
        let states = [(circuits("closed"), 1.0), (circuits("half-open"), 1.0), (circuits("open"), 1.0)];
        assert_eq!(recorder.gauges(), states);
        drop((a, b, trial));
        assert_eq!(recorder.gauges(), [(circuits("closed"), 1.0)], "they went with their endpoints");
    });
    assert_eq!(recorder.gauges(), []);
    let moved = "breaker=users,from=closed,to=open,reason=manual";
    assert_eq!(recorder.counter(&format!("tower_mesh_circuit_transitions_total{{{moved}}}")), 2);
    assert_eq!(recorder.counter("tower_mesh_circuit_refused_total{breaker=users}"), 2);
    assert!(recorder.0.lock().unwrap().keys().all(|name| !name.contains(":1")));
}

/// Somebody else's code, and wrong.
struct Panics;

impl metrics::Recorder for Panics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        panic!("a recorder's bug")
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("a recorder's bug")
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_panics_ends_no_call_no_circuit_and_no_program() {
    metrics::with_local_recorder(&Panics, || {
        let layer = BreakerLayer::new(BreakerConfig::default(), ByResult);
        layer.circuit().trip(now());
        assert!(layer.circuit().acquire(now()).is_err());
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _circuit = layer;
            panic!("while unwinding");
        }));
        assert_eq!(*dropped.unwrap_err().downcast::<&str>().unwrap(), "while unwinding");
    });
}
