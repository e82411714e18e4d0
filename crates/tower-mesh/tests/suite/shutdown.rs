//! Shutting down: calls under way get their time, and nothing is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt as _, service_fn};
use tower_mesh::core::replay::Idempotent;
use tower_mesh::core::{BoxError, EndpointHandle};
use tower_mesh::discovery::FixedList;
use tower_mesh::{ErrorKind, Mesh, MeshState};

use crate::backend::{Backend, Mood, client, get, status};
use crate::inner::{Query, Rows, query, tasks};

const SECOND: Duration = Duration::from_secs(1);

fn mesh(more: &str) -> Mesh {
    let config = format!("[services.database]\nendpoints = [\"a:1\"]\n{more}");
    Mesh::builder().config_toml(config).build().unwrap()
}

/// Takes a second for everything, and fails for "fail".
async fn slow(query: Query) -> Result<Rows, BoxError> {
    sleep(SECOND).await;
    if query.0 == "fail" { Err("failed".into()) } else { Ok(Rows(query.0)) }
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_get_their_grace_and_no_more() {
    for (grace, took, cut_off) in [
        (2 * SECOND, SECOND, 0),
        (Duration::MAX, SECOND, 0),
        (SECOND / 2, SECOND / 2, 5),
        (Duration::ZERO, Duration::ZERO, 5),
    ] {
        let before = tasks().await;
        let mesh = mesh("");
        let service = mesh.service("database").unwrap().connect(|_: &EndpointHandle| service_fn(slow));
        mesh.start().await.unwrap();
        let calls: Vec<_> = (0..5).map(|_| tokio::spawn(service.clone().oneshot(query("a")))).collect();
        tasks().await;

        let began = Instant::now();
        let (report, late) = tokio::join!(mesh.shutdown(grace), async {
            tokio::task::yield_now().await;
            service.clone().oneshot(query("late")).await
        });
        assert_eq!(late.unwrap_err().kind(), ErrorKind::ShuttingDown);
        let slack = Duration::from_millis(20);
        assert!((took..=took + slack).contains(&began.elapsed()), "{grace:?} took {:?}", began.elapsed());
        assert_eq!((report.cut_off, report.tasks, mesh.state()), (cut_off, 1, MeshState::Stopped));
        // Cut off is not dropped: the callers still get their answers.
        for call in join_all(calls).await {
            assert_eq!(call.unwrap().unwrap(), Rows("a".into()));
        }
        assert_eq!(tasks().await, before);
        let again = mesh.shutdown(SECOND).await;
        assert_eq!((again.cut_off, again.tasks, mesh.state()), (0, 0, MeshState::Stopped));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_between_two_attempts_is_under_way() {
    let mesh = mesh(
        "retry.base_delay = \"4s\"\nretry.max_delay = \"4s\"\nretry.jitter = \"none\"\nretry.max_attempts = 2",
    );
    let service =
        mesh.service("database").unwrap().replay(Idempotent).connect(|_: &EndpointHandle| service_fn(slow));
    mesh.start().await.unwrap();
    let call = tokio::spawn(service.oneshot(query("fail")));
    sleep(2 * SECOND).await;
    assert_eq!(mesh.status().services[0].endpoints[0].in_flight, 0, "it waits to be sent again");
    assert_eq!(mesh.shutdown(60 * SECOND).await.cut_off, 0);
    assert!(call.is_finished());
    assert_eq!(call.await.unwrap().unwrap_err().attempts(), 2, "it had its second attempt");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_is_under_way_no_more() {
    let mesh = mesh("");
    let service = mesh.service("database").unwrap().connect(|_: &EndpointHandle| service_fn(slow));
    mesh.register::<Query, _>("database", service.clone()).unwrap();
    mesh.start().await.unwrap();
    let gone = Duration::from_millis(10);
    assert!(tokio::time::timeout(gone, service.oneshot(query("a"))).await.is_err());
    assert!(tokio::time::timeout(gone, mesh.call("database", "query", query("a"))).await.is_err());
    let began = Instant::now();
    assert_eq!((mesh.shutdown(SECOND).await.cut_off, began.elapsed()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_registered_closure_is_waited_for_too() {
    let mesh = mesh("");
    mesh.register::<Query, _>("database", service_fn(slow)).unwrap();
    mesh.start().await.unwrap();
    let call = {
        let mesh = mesh.clone();
        tokio::spawn(async move { mesh.call("database", "query", query("a")).await })
    };
    tasks().await;
    assert_eq!(mesh.shutdown(2 * SECOND).await.cut_off, 0);
    assert!(call.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_still_read_is_under_way_even_if_its_endpoint_is_gone() {
    for removed in [false, true] {
        let list = FixedList::new(["a:1".parse().unwrap()]).unwrap();
        let config = "[services.files]\nresolver = \"list\"";
        let mesh = Mesh::builder().config_toml(config).resolver("list", list.clone()).build().unwrap();
        let client = service_fn(|_: http::Request<http_body_util::Empty<Bytes>>| async {
            let chunks = stream::unfold(0, |sent| async move {
                sleep(SECOND).await;
                (sent < 3).then(|| (Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"x"))), sent + 1))
            });
            Ok::<_, BoxError>(Response::new(StreamBody::new(chunks.boxed())))
        });
        let files = mesh.service("files").unwrap().http(client);
        mesh.start().await.unwrap();
        let response = files.clone().oneshot(get()).await.unwrap();
        if removed {
            list.set(["b:1".parse().unwrap()]).unwrap();
            tasks().await;
            assert_eq!(mesh.status().services[0].endpoints[0].id, "b:1");
        }
        let reading = tokio::spawn(async move { response.into_body().collect().await });
        tasks().await;
        let began = Instant::now();
        assert_eq!(mesh.shutdown(60 * SECOND).await.cut_off, 0);
        assert!(reading.is_finished() && began.elapsed() >= 3 * SECOND, "removed: {removed}");
        assert_eq!(reading.await.unwrap().unwrap().to_bytes(), "xxx");
    }
}

/// Descriptors open in this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or(0)
}

#[tokio::test]
async fn starting_and_stopping_twenty_times_leaves_nothing_behind() {
    let backends = [Backend::start(Mood::Well).await, Backend::start(Mood::Well).await];
    let [a, b] = backends.each_ref().map(|backend| backend.address);
    let config = format!(
        "[services.users]\nendpoints = [\"{a}\", \"{b}\"]\nhealth.path = \"/healthz\"\nhealth.interval = \"5ms\""
    );
    let mut left = Vec::new();
    for _ in 0..21 {
        let mesh = Mesh::builder().config_toml(&config).build().unwrap();
        let users = mesh.service("users").unwrap().http(client());
        mesh.start().await.unwrap();
        let calls = (0..10).map(|_| status(&users, get()));
        join_all(calls).await.into_iter().for_each(|status| assert_eq!(status.unwrap(), 200));
        while mesh.status().services[0]
            .endpoints
            .iter()
            .any(|endpoint| endpoint.health.as_ref().is_none_or(|h| h.last.is_none()))
        {
            sleep(Duration::from_millis(1)).await;
        }
        let report = mesh.shutdown(SECOND).await;
        assert_eq!((report.cut_off, report.tasks), (0, 2));
        let probed = backends.each_ref().map(Backend::probes);
        drop((users, mesh));
        // The client's connections and the server's side of them close in their own time, which is none of the mesh's.
        let settled = left.first().copied().unwrap_or((0, 0));
        for _ in 0..500 {
            sleep(Duration::from_millis(2)).await;
            if (tasks().await, descriptors()) <= settled {
                break;
            }
        }
        assert_eq!(backends.each_ref().map(Backend::probes), probed, "no probe after the end");
        left.push((tasks().await, descriptors()));
    }
    // Other tests open descriptors at the same time, unless each has a process of its own.
    let foreign = if std::env::var_os("NEXTEST").is_some() { 0 } else { 64 };
    let (first, last) = (left[0], left[20]);
    assert!(last.0 <= first.0 && last.1 <= first.1 + foreign, "tasks and descriptors grew: {left:?}");
}

#[tokio::test(start_paused = true)]
async fn two_shutdowns_at_once_are_one() {
    let mesh = mesh("");
    let service = mesh.service("database").unwrap().connect(|_: &EndpointHandle| service_fn(slow));
    mesh.start().await.unwrap();
    let call = tokio::spawn(service.oneshot(query("a")));
    tasks().await;
    let mesh = Arc::new(mesh);
    let (long, short) = tokio::join!(mesh.shutdown(2 * SECOND), mesh.shutdown(2 * SECOND));
    assert_eq!((long.cut_off, short.cut_off, mesh.state()), (0, 0, MeshState::Stopped));
    assert!(call.is_finished());
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_done_at_the_end_is_done_beside_draining_and_bounded_like_it() {
    let done = Arc::new(AtomicU64::new(0));
    let farewell = |after: u64| {
        let done = done.clone();
        async move {
            sleep(Duration::from_secs(after)).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let mesh = Mesh::builder().at_shutdown(farewell(1)).at_shutdown(farewell(100)).build().unwrap();
    let waits = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.ready().await }
    });
    tasks().await;
    assert!(!waits.is_finished());
    mesh.start().await.unwrap();
    assert!(waits.await.unwrap() && mesh.ready().await);
    let began = Instant::now();
    let report = mesh.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.unsaid, done.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert!(!mesh.ready().await, "it does not come back");
    assert_eq!(mesh.shutdown(Duration::from_secs(5)).await.unsaid, 0, "it is said once");
}

#[tokio::test]
async fn who_waits_for_the_start_hears_of_the_end_too() {
    let mesh = Mesh::builder().build().unwrap();
    let waits = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.ready().await }
    });
    tasks().await;
    mesh.shutdown(Duration::ZERO).await;
    assert!(!waits.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_farewell_that_panics_or_is_interrupted_ends_no_other_and_no_shutdown() {
    let done = Arc::new(AtomicU64::new(0));
    let slow = done.clone();
    let mesh = Mesh::builder()
        .config_toml("[services.database]\nendpoints = [\"a:1\"]")
        .at_shutdown(async { panic!("a farewell") })
        .at_shutdown(async move {
            sleep(Duration::from_secs(3)).await;
            slow.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    mesh.start().await.unwrap();
    let interrupted = tokio::time::timeout(SECOND, mesh.shutdown(10 * SECOND)).await;
    assert!(interrupted.is_err() && done.load(Ordering::Relaxed) == 0);
    let report = mesh.shutdown(10 * SECOND).await;
    assert_eq!((report.unsaid, report.tasks, done.load(Ordering::Relaxed)), (0, 1, 1));
    assert_eq!(mesh.state(), MeshState::Stopped);
}
