//! The guard of one target.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::cell::Cell;
use std::future::{Ready, ready};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio_test::{assert_pending, assert_ready_ok};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_mesh_core::classify::{ByResult, Outcome, Retry, judge};
use tower_mesh_core::probe::{Probe, ProbeFailure, Probed};
use tower_mesh_core::{EndpointHandle, Reason, error};
use tower_mesh_health::{HealthConfig, HealthLayer, Unhealthy};
use tower_service::Service;

struct Never;

impl Probe for Never {
    async fn probe(&self, _: &EndpointHandle) -> Result<Probed, ProbeFailure> {
        std::future::pending().await
    }
}

/// Ready only if it may be; complains when it is called without having been readied.
#[derive(Default)]
struct Strict {
    may_be_ready: Rc<Cell<bool>>,
    polled: Rc<Cell<usize>>,
    called: Rc<Cell<usize>>,
    readied: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            may_be_ready: self.may_be_ready.clone(),
            polled: self.polled.clone(),
            called: self.called.clone(),
            readied: false,
        }
    }
}

impl Service<u32> for Strict {
    type Response = u32;
    type Error = std::io::Error;
    type Future = Ready<Result<u32, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        self.polled.set(self.polled.get() + 1);
        if self.may_be_ready.get() {
            self.readied = true;
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, request: u32) -> Self::Future {
        assert!(std::mem::take(&mut self.readied), "called without being readied");
        self.called.set(self.called.get() + 1);
        ready(Ok(request + 1))
    }
}

fn endpoint() -> EndpointHandle {
    EndpointHandle::new("target:1".parse().unwrap())
}

fn health() -> HealthLayer {
    HealthLayer::new(HealthConfig::default(), Never).0
}

#[tokio::test]
async fn up_it_passes_through_and_down_it_refuses_without_asking_the_inner_service() {
    let endpoint = endpoint();
    let inner = Strict::default();
    inner.may_be_ready.set(true);
    let mut service = health().guarding(&endpoint).layer(inner.clone());
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);

    endpoint.set(Reason::ProbeDown);
    let polled = inner.polled.get();
    let error = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert_eq!((inner.polled.get(), inner.called.get()), (polled, 1));
    let unhealthy = error::find::<Unhealthy>(&*error).unwrap();
    assert_eq!(unhealthy.endpoint(), endpoint.id());
    let verdict = judge::<u32, _>(&ByResult, Err(&*error));
    assert_eq!((verdict.outcome, verdict.retry), (Outcome::Refused, Retry::NotProcessed));

    endpoint.clear(Reason::ProbeDown);
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
}

#[tokio::test]
async fn other_layers_reasons_are_none_of_its_business() {
    let endpoint = endpoint();
    let inner = Strict::default();
    inner.may_be_ready.set(true);
    let service = health().guarding(&endpoint).layer(inner);
    endpoint.set(Reason::CircuitOpen);
    endpoint.set(Reason::Draining);
    assert_eq!(service.oneshot(1).await.unwrap(), 2);
}

#[tokio::test]
async fn what_was_readied_while_down_never_reaches_the_inner_service() {
    let endpoint = endpoint();
    let inner = Strict::default();
    let mut service = health().guarding(&endpoint).layer(inner.clone());
    endpoint.set(Reason::ProbeDown);
    let cx = &mut Context::from_waker(Waker::noop());
    assert_ready_ok!(service.poll_ready(cx));
    endpoint.clear(Reason::ProbeDown);
    // Strict would panic: it was never readied.
    assert!(service.call(1).await.is_err());
    assert_eq!(inner.called.get(), 0);
    assert_pending!(service.poll_ready(cx));
}

#[tokio::test]
async fn readiness_belongs_to_the_service_that_was_asked_and_outlives_a_refusal() {
    let endpoint = endpoint();
    let inner = Strict::default();
    inner.may_be_ready.set(true);
    let mut service = health().guarding(&endpoint).layer(inner.clone());
    service.ready().await.unwrap();
    let mut clone = service.clone();
    assert!(clone.call(1).await.is_err(), "the clone was not readied");
    endpoint.set(Reason::ProbeDown);
    assert!(service.call(1).await.is_err(), "it went down after it was ready");
    endpoint.clear(Reason::ProbeDown);
    assert_eq!(service.call(1).await.unwrap(), 2, "the permit of the inner service was kept");
}
