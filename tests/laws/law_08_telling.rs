//! Policies are pure, and the world is told after any lock is released: who listens may ask back.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tower_mesh_breaker::{Circuit, State};
use tower_mesh_core::EndpointHandle;
use tower_mesh_discovery::DiscoveryLayer;
use tower_mesh_test::{Fleet, ScriptedResolver};
use tower_mesh_tests::{Query, breaker, now};
use tracing::span;

/// Does something at every event.
struct Listener(Box<dyn Fn() + Send + Sync>);

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_mesh")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        (self.0)();
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Runs `body` on a thread, and fails instead of hanging if it never ends.
fn ends(body: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = ended.send(());
    });
    match end.recv_timeout(Duration::from_secs(30)) {
        Ok(()) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("deadlock: told under a lock"),
    }
}

#[test]
fn a_listener_may_ask_the_circuit_that_tells_it() {
    ends(|| {
        let circuit: Circuit = breaker().circuit().clone();
        let (seen, told) = mpsc::channel();
        let asked = circuit.clone();
        let listener = Listener(Box::new(move || {
            let _ = seen.send((asked.state(), asked.snapshot(now()).generation));
        }));
        tracing::subscriber::with_default(listener, || {
            circuit.trip(now());
            circuit.half_open(now());
            circuit.close(now());
        });
        let told: Vec<_> = told.try_iter().collect();
        assert_eq!(told, [(State::Open, 1), (State::HalfOpen, 2), (State::Closed, 3)]);
    });
}

#[test]
fn a_listener_may_ask_the_discovery_that_tells_it() {
    ends(|| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let resolver = ScriptedResolver::new();
        let (layer, driver) = DiscoveryLayer::new(&resolver, "users".parse().unwrap());
        let (asked, (seen, told)) = (layer.clone(), mpsc::channel());
        let listener = Listener(Box::new(move || {
            let _ = seen.send(asked.status().endpoints.len());
        }));
        resolver.reset(["a:1", "b:1"]);
        resolver.fail("the registry");
        tracing::subscriber::with_default(listener, || {
            runtime.block_on(async {
                let mut driver = tower_mesh_test::Stepped::new(driver);
                assert!(driver.poll().is_pending());
            });
        });
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [2, 2]);
    });
}

#[test]
fn the_users_bind_may_ask_the_discovery_that_calls_it() {
    ends(|| {
        let resolver = ScriptedResolver::new();
        let (layer, driver) = DiscoveryLayer::new(&resolver, "users".parse().unwrap());
        let fleet = Fleet::<Query>::new(["a:1"]);
        let (asked, seen) = (layer.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
        let sees = seen.clone();
        let _service = layer.connect(move |endpoint: &EndpointHandle| {
            sees.lock().unwrap().push(asked.status().endpoints.len());
            fleet.connect(endpoint)
        });
        resolver.reset(["a:1"]);
        let mut driver = tower_mesh_test::Stepped::new(driver);
        assert!(driver.poll().is_pending());
        assert_eq!(*seen.lock().unwrap(), [1]);
    });
}
