//! A mesh can be started and stopped any number of times: no task, no file descriptor and no byte stays. A target of its own, for its allocator.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "the server's task ends with the runtime of the test")]

use std::alloc::System;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tower::{ServiceExt as _, service_fn};
use tower_mesh::Mesh;
use tower_mesh_core::{BoxError, EndpointHandle};
use tower_mesh_tests::Query;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    tasks: usize,
    descriptors: usize,
    bytes: usize,
}

fn held() -> Held {
    let stats = ALLOCATOR.stats();
    Held {
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        bytes: stats.bytes_allocated - stats.bytes_deallocated,
    }
}

/// A mesh from its beginning to its end: probes over real connections, ejection, calls that fail and are sent again, a reload.
async fn life(address: std::net::SocketAddr, n: u32) {
    let config = |weight: &str| {
        let text = format!(
            "[services.users]\nendpoints = [\"{address}\", \"127.0.0.1:1\"]\nretry.max_attempts = 2\nretry.base_delay = \"1ms\"\n\
             [services.users.health]\ntcp = {{}}\ninterval = \"2ms\"\n[services.users.outlier]\n{weight}"
        );
        tower_mesh::Config::from_toml(&text).unwrap()
    };
    let mesh = Mesh::builder().config(config("")).at_shutdown(async {}).build().unwrap();
    let users = mesh.service("users").unwrap().connect(|endpoint: &EndpointHandle| {
        let well = endpoint.endpoint().address() != "127.0.0.1:1";
        service_fn(move |Query(n): Query| async move {
            tokio::task::yield_now().await;
            if well { Ok(n) } else { Err(BoxError::from("failed")) }
        })
    });
    mesh.start().await.unwrap();
    for call in 0..20 {
        let _ = users.clone().oneshot(Query(call)).await;
    }
    while mesh.status().services[0].endpoints.iter().all(|endpoint| endpoint.available) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if n.is_multiple_of(2) {
        mesh.reload(config("[services.orders]\nendpoints = [\"o:1\"]")).unwrap();
    }
    let report = mesh.shutdown(Duration::from_secs(5)).await;
    assert_eq!(report.cut_off, 0);
    assert!(report.tasks >= 3, "{report:?}");
}

#[test]
fn a_mesh_that_has_ended_holds_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                drop(connection);
            }
        });
        let lives = async |count: u32| {
            for n in 0..count {
                life(address, n).await;
            }
            // The last connections reach the server, which lets go of them.
            tokio::time::sleep(Duration::from_millis(50)).await;
            held()
        };
        // What is set up once for the process (names, tables of threads) is there after these.
        let before = lives(30).await;
        let after = lives(100).await;
        println!("{before:?} before, {after:?} after another 100 lives");
        assert_eq!((after.tasks, after.descriptors), (before.tasks, before.descriptors));
        let grown = after.bytes.saturating_sub(before.bytes);
        assert!(grown < 1024, "{grown} bytes stay of 100 lives: {before:?}, {after:?}");
    });
}
