//! T4, T5, T6: waiting.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tower::{Service, ServiceExt};
use tower_mesh_breaker::State;
use tower_mesh_core::{BoxError, EndpointHandle};
use tower_mesh_discovery::DiscoveryLayer;
use tower_mesh_test::{Fleet, Inner, ScriptedResolver, Stepped};
use tower_mesh_tests::{ALL, Query, breaker, ms, now, settle};

use crate::{Seen, assert_told_apart, ensure};

/// While nothing happens, a future that waits is left alone.
async fn sleeps<F: Future>(mut waiting: Stepped<F>) -> Seen {
    ensure(waiting.poll().is_pending(), || "not waiting".into())?;
    for _ in 0..50 {
        tokio::time::advance(ms(10)).await;
        if waiting.wakes() > 0 {
            return Err(format!("{} wakes in half a second in which nothing happened", waiting.wakes()));
        }
    }
    Ok(())
}

/// Asks its inner service again and again.
struct Spinning<S>(S);

impl<S: Service<Query>> Service<Query> for Spinning<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.0.poll_ready(cx);
        if ready.is_pending() {
            cx.waker().wake_by_ref();
        }
        ready
    }

    fn call(&mut self, query: Query) -> S::Future {
        self.0.call(query)
    }
}

#[tokio::test(start_paused = true)]
async fn t4_readiness_does_not_wake_itself() {
    for (name, wrap) in ALL {
        let inner = Inner::new(|call, _: Query| async move { Ok(call) });
        let service = wrap(&inner);
        settle().await;
        inner.hold();
        let ours = sleeps(Stepped::new(service.clone().oneshot(Query(0)))).await;
        let wrong = sleeps(Stepped::new(Spinning(service).oneshot(Query(0)))).await;
        assert_eq!(ours, Ok(()), "{name}");
        // A balancer is ready whatever its endpoints are, so there is nothing to spin over.
        assert_eq!(wrong.is_ok(), matches!(name, "discovery" | "composed"), "{name}");
    }
}

/// A balancer that waits for its first resolution, and the resolver it waits for.
fn unresolved() -> (ScriptedResolver, impl Service<Query, Response = String, Error = BoxError> + Clone) {
    let (resolver, fleet) = (ScriptedResolver::new(), Fleet::<Query>::new(["a:1"]));
    let layer = DiscoveryLayer::spawn(&resolver, "users".parse().unwrap());
    (resolver, layer.connect(move |endpoint: &EndpointHandle| fleet.connect(endpoint)))
}

/// Many wait for one result: here calls for the first resolution, as with the peer for a coalesced call.
#[tokio::test(start_paused = true)]
async fn t5_who_waits_for_what_another_brings_does_not_spin() {
    let (_resolver, service) = unresolved();
    settle().await;
    let ours = sleeps(Stepped::new(service.oneshot(Query(0)))).await;
    let wrong = sleeps(Stepped::new(poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    })));
    assert_told_apart(&ours, &wrong.await, "in which nothing happened");
}

/// All who wait are woken, also when one of them has gone.
async fn all_are_woken<F: Future>(wait: impl Fn() -> F, open: impl AsyncFnOnce()) -> Seen {
    let (mut first, mut gone, mut last) = (Stepped::new(wait()), Stepped::new(wait()), Stepped::new(wait()));
    ensure(first.poll().is_pending() && gone.poll().is_pending() && last.poll().is_pending(), || {
        "not waiting".into()
    })?;
    drop(gone);
    open().await;
    ensure(first.wakes() > 0, || "the first who waited was forgotten".into())?;
    ensure(last.wakes() > 0, || "the last who waited was forgotten".into())?;
    ensure(first.poll().is_ready() && last.poll().is_ready(), || "woken, and still waiting".into())
}

/// Room for one waker.
#[derive(Default)]
struct Slot {
    open: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Slot {
    fn wait(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let slot = self.clone();
        poll_fn(move |cx| {
            *slot.waker.lock().unwrap() = Some(cx.waker().clone());
            if slot.open.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn t6_there_is_room_for_more_than_one_waker() {
    let circuit = breaker().circuit().clone();
    circuit.force_open(now());
    let (slot, close) = (Arc::new(Slot::default()), circuit.clone());
    assert_told_apart(
        &all_are_woken(|| circuit.reached(State::Closed), async || close.close(now())).await,
        &all_are_woken(
            || slot.wait(),
            async || {
                slot.open.store(true, Ordering::Release);
                let waker = slot.waker.lock().unwrap().take();
                waker.unwrap().wake();
            },
        )
        .await,
        "was forgotten",
    );

    let (resolver, service) = unresolved();
    settle().await;
    let resolved = all_are_woken(
        || service.clone().oneshot(Query(0)),
        async || {
            resolver.reset(["a:1"]);
            settle().await;
        },
    );
    assert_eq!(resolved.await, Ok(()));
}
