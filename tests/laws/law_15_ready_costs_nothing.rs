//! On the path "closed, healthy, first attempt succeeds" no timer is armed and one clock reading at each end serves every layer of the attempt. That nothing
//! is allocated is shown by the target `allocations`.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_mesh_core::classify::{ByResult, Guard, Verdict};
use tower_mesh_core::{BoxError, CallContext, Classify, EndpointHandle, Tick};
use tower_mesh_discovery::{DiscoveryLayer, FixedList};
use tower_mesh_test::Stepped;
use tower_mesh_tests::{Query, breaker, deadline, retry};

/// Outside a runtime a timer cannot be armed: tokio panics.
#[test]
fn the_ready_path_arms_no_timer() {
    let list = FixedList::new(["a:1".parse().unwrap()]).unwrap();
    let (discovery, driver) = DiscoveryLayer::new(&list, "users".parse().unwrap());
    let breakers = breaker();
    let service = ServiceBuilder::new()
        .layer(deadline())
        .layer(retry())
        .layer(discovery.per_endpoint(move |endpoint: &EndpointHandle| breakers.watching(endpoint)))
        .service(service_fn(|Query(n)| async move {
            if n == 0 { std::future::pending().await } else { Ok::<_, BoxError>(n) }
        }));
    let mut driver = Stepped::new(driver);
    assert!(driver.poll().is_pending());
    for n in 1..10 {
        let answer = Stepped::new(service.clone().oneshot(Query(n))).poll();
        assert_eq!(answer.map(Result::unwrap), Poll::Ready(n), "at the first poll");
    }
    let mut pending = Stepped::new(service.oneshot(Query(0)));
    let armed = catch_unwind(AssertUnwindSafe(|| pending.poll()));
    assert!(armed.is_err(), "what is pending arms one, so the test can tell");
}

type Readings = Arc<Mutex<Vec<(Option<Tick>, Option<Tick>)>>>;

/// Judges as [`ByResult`] does, and notes which readings were taken before it was asked.
#[derive(Clone)]
struct Witness(Readings);

impl<Res> Classify<Res> for Witness {
    type Response<G: Guard> = Res;

    fn head(&self, result: Result<&Res, &(dyn Error + 'static)>) -> Verdict {
        self.0.lock().unwrap().push(readings());
        ByResult.head(result)
    }

    fn attach<G: Guard>(&self, response: Res, verdict: Verdict, guard: G) -> Res {
        guard.finish(verdict);
        response
    }
}

fn readings() -> (Option<Tick>, Option<Tick>) {
    CallContext::with(|call| (call.started(), call.ended())).expect("lent")
}

#[tokio::test(start_paused = true)]
async fn one_reading_at_each_end_serves_every_layer() {
    let (list, seen) = (FixedList::new(["a:1".parse().unwrap()]).unwrap(), Readings::default());
    let (breakers, inside) = (breaker(), seen.clone());
    let service = ServiceBuilder::new()
        .layer(deadline())
        .layer(retry())
        .layer(
            DiscoveryLayer::spawn(&list, "users".parse().unwrap())
                .classify(Witness(seen.clone()))
                .per_endpoint(move |endpoint: &EndpointHandle| breakers.watching(endpoint)),
        )
        .service(service_fn(move |_: Query| {
            inside.lock().unwrap().push(readings());
            async { Ok::<_, BoxError>(()) }
        }));
    tower_mesh_tests::settle().await;
    service.oneshot(Query(1)).await.unwrap();
    let seen = seen.lock().unwrap();
    let [(Some(at_the_client), None), (Some(at_the_balancer), Some(_))] = seen[..] else {
        panic!(
            "the client is reached with a reading taken, and the breaker takes the one at the end: {seen:?}"
        )
    };
    assert_eq!(at_the_client, at_the_balancer);
}

#[tokio::test(start_paused = true)]
async fn a_layer_switched_off_is_not_noticed() {
    use tower_mesh_retry::{DeadlineConfig, RetryConfig};
    let (deadline, retry, breakers) = (deadline(), retry(), breaker());
    deadline.live().reload(DeadlineConfig::builder().timeout(None).build().unwrap());
    retry.live().reload(RetryConfig::builder().max_attempts(1).build().unwrap());
    breakers.circuit().disable(tower_mesh_tests::now());
    let service = ServiceBuilder::new()
        .layer(deadline)
        .layer(retry)
        .service(breakers.layer(service_fn(|_: Query| async { Err::<(), _>(BoxError::from("down")) })));
    for n in 0..20 {
        let error = service.clone().oneshot(Query(n)).await.unwrap_err();
        assert_eq!(error.to_string(), "down", "it comes out as it is");
    }
    assert_eq!(breakers.circuit().snapshot(tower_mesh_tests::now()).counts.total, 0);
}
