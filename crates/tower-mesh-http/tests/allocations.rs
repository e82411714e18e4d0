//! What a copy of a request costs: with a body that is there it is that of a clone, and an empty one in a `ReplayBody` costs nothing more. A target of its own, since
//! the allocator it counts with is that of the whole process.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::alloc::System;

use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower_mesh_core::Replay;
use tower_mesh_http::{Classifier, ReplayBody};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How many allocations `act` makes, at the least of several rounds: the thread that waits for this test allocates too, now and then.
fn allocations<R>(act: impl Fn() -> R) -> usize {
    let rounds = (0..5).map(|_| {
        let region = Region::new(ALLOCATOR);
        let result = act();
        let change = region.change();
        drop(result);
        change.allocations + change.reallocations
    });
    rounds.min().unwrap()
}

fn request<B>(body: B) -> Request<B> {
    Request::put("http://users/7?a=b").header("accept", "text/plain").body(body).unwrap()
}

#[test]
fn copies_cost_no_more_than_clones_and_what_is_empty_costs_nothing() {
    let (replay, full) = (Classifier::default(), request(Full::new(Bytes::from_static(b"all there"))));
    let clone = allocations(|| full.clone());
    assert!(clone > 0, "the counter counts");
    assert_eq!(allocations(|| replay.copy(&full)), clone);

    assert_eq!(allocations(|| ReplayBody::new(Empty::<Bytes>::new())), 0);
    let empty = request(ReplayBody::new(Empty::<Bytes>::new()));
    assert_eq!(allocations(|| replay.copy(&empty)), clone);
}
