//! Every attempt calls the very service value whose `poll_ready` returned ready. A clone starts without its original's permit. A retry polls
//! readiness again.

use std::task::{Context, Poll, Waker};

use tower::{Service, ServiceExt};
use tower_layer::Layer;
use tower_mesh_core::BoxError;
use tower_mesh_test::{Down, Inner};
use tower_mesh_tests::{ALL, Query, Subject, retry, settle};

fn echo() -> Inner<Query, u64> {
    Inner::new(|_, Query(n)| async move { Ok(n.into()) })
}

fn ask(service: &mut Subject) -> Poll<Result<(), BoxError>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn the_value_that_was_readied_is_the_one_that_is_called() {
    for (name, wrap) in ALL {
        let inner = echo();
        let mut service = wrap(&inner);
        for n in 0..20 {
            service.ready().await.unwrap();
            let clone = service.clone();
            assert_eq!(service.call(Query(n)).await.unwrap(), u64::from(n), "{name}");
            assert_eq!(clone.oneshot(Query(n)).await.unwrap(), u64::from(n), "{name}");
        }
        assert_eq!((inner.calls(), inner.violations()), (40, vec![]), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn also_when_calls_fail_and_are_sent_again() {
    for (name, wrap) in ALL {
        // Two in three fail: not five in a row, and never a call's third attempt.
        let inner = Inner::new(|call, _: Query| async move {
            if call % 3 == 0 { Ok(call) } else { Err(Down("inner".into()).into()) }
        });
        let service = wrap(&inner);
        for n in 0..3 {
            let _ = service.clone().oneshot(Query(n)).await;
        }
        assert!(inner.calls() >= 3, "{name}");
        assert_eq!(inner.violations(), Vec::<&str>::new(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_ready_service_has_to_become_ready_itself() {
    for (name, wrap) in ALL {
        let inner = echo().with_permits(1);
        let mut service = wrap(&inner);
        settle().await;
        assert!(ask(&mut service).is_ready(), "{name}");
        let held = inner.permits_out();
        let mut clone = service.clone();
        assert_eq!(inner.permits_out(), held, "{name}: cloning takes no permit");
        // A balancer holds none before the call: it is always ready.
        assert_eq!(ask(&mut clone).is_pending(), held == 1, "{name}");
        drop(service);
        assert_eq!(inner.permits_out(), 0, "{name}: a readied value that is dropped gives its permit back");
        assert!(ask(&mut clone).is_ready(), "{name}");
        assert_eq!(clone.call(Query(1)).await.unwrap(), 1, "{name}");
        assert_eq!(inner.violations(), Vec::<&str>::new(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_permit_stays_behind_with_a_service_that_is_only_kept() {
    for (name, wrap) in ALL {
        let inner = echo().with_permits(1);
        let mut service = wrap(&inner);
        for n in 0..5 {
            assert!(service.ready().await.unwrap().call(Query(n)).await.is_ok(), "{name}");
            assert_eq!(inner.permits_out(), 0, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_attempt_asks_for_readiness_again() {
    let inner = Inner::new(|call, _: Query| async move {
        if call < 3 { Err(Down("inner".into()).into()) } else { Ok(call) }
    });
    let inner = inner.with_permits(1);
    assert_eq!(retry().layer(inner.clone()).oneshot(Query(0)).await.unwrap(), 3);
    assert_eq!((inner.asked(), inner.calls(), inner.permits_out()), (3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_error_reaches_the_caller_and_breaks_nothing_for_the_next() {
    for (name, wrap) in ALL {
        let inner = echo();
        let service = wrap(&inner);
        settle().await;
        inner.fail_readiness();
        assert!(service.clone().oneshot(Query(1)).await.is_err(), "{name}");
        inner.release();
        assert_eq!(service.oneshot(Query(1)).await.unwrap(), 1, "{name}");
        assert_eq!(inner.violations(), Vec::<&str>::new(), "{name}");
    }
}
